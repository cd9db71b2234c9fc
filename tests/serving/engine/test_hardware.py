"""Asking a cluster that may not answer."""

import asyncio

import pytest

from foundry.errors import Unavailable
from foundry.serving.engine import hardware
from foundry.serving.engine.hardware import Hardware, Node, ask_hardware

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
    monkeypatch.setattr(hardware, "_ASK_S", 0.05)
    assert await ask_hardware(Cluster()) == CLUSTER
    assert await ask_hardware(Cluster(fails=True)) is None
    assert await asyncio.wait_for(ask_hardware(Cluster(after_s=60)), 5) is None
    assert await ask_hardware(None) is None
