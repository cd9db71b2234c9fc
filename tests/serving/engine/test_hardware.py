"""What a cluster can compute in, as far as it is known."""

import asyncio
from dataclasses import replace

import pytest

from foundry.errors import Unavailable
from foundry.serving.engine import hardware as hardware_module
from foundry.serving.engine.hardware import Hardware, Node, ask_hardware

T4, L4 = "nvidia-t4-16gb", "nvidia-l4-24gb"
T4S = Hardware((Node(8, 64, 2),), accelerators={T4: "T4"}, without_bfloat16=frozenset({T4}))
BOTH = replace(T4S, accelerators={T4: "T4", L4: "L4"})


@pytest.mark.parametrize(
    ("hardware", "kinds", "lacks"),
    [
        (T4S, None, True),
        (BOTH, None, False),
        (BOTH, [T4], True),
        (BOTH, [T4, L4], False),
        (T4S, [], False),
        (replace(T4S, unknown_accelerators=True), None, False),
        (replace(T4S, accelerators={}), None, False),
        (replace(T4S, nodes=(Node(8, 64),)), None, False),
    ],
)
def test_bfloat16_is_lacking_only_where_no_accelerator_has_it(
    hardware: Hardware, kinds: list[str] | None, lacks: bool
) -> None:
    assert hardware.lacks_bfloat16(kinds) is lacks


CLUSTER = Hardware((Node(2, 8),))


class Cluster:
    def __init__(self, *, after_s: float = 0.0, fails: bool = False) -> None:
        self._after_s = after_s
        self._fails = fails

    async def read_hardware(self) -> Hardware:
        await asyncio.sleep(self._after_s)
        if self._fails:
            raise Unavailable("Ray did not answer")
        return CLUSTER


async def test_a_cluster_that_does_not_answer_soon_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware_module, "_ASK_S", 0.05)
    assert await ask_hardware(Cluster()) == CLUSTER
    assert await ask_hardware(Cluster(fails=True)) is None
    assert await asyncio.wait_for(ask_hardware(Cluster(after_s=60)), 5) is None
    assert await ask_hardware(None) is None
