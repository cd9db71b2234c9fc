"""What a cluster can compute in, as far as it is known."""

from dataclasses import replace

import pytest

from foundry.serving.engine.hardware import Hardware, Node

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
