"""What counts as unseen, by shape and datasheet."""

from dataclasses import replace

import numpy as np
import pytest

from foundry.engines.budsim.novelty import Seen
from foundry.engines.budsim.points import Points
from foundry.engines.budsim.prediction import NOVELTIES
from tests.engines.budsim.serving_cases import points
from tests.fakes.models import LLAMA_8B, LLAMA_70B, MIXTRAL

_H200 = {"memory": 141e9, "bandwidth": 4800e9}


def _joined(*parts: Points) -> Points:
    names = parts[0].__slots__
    return Points(**{name: np.concatenate([getattr(one, name) for one in parts]) for name in names})


# vLLM on two GPUs, SGLang (1) on the first only.
SEEN = Seen.of(
    _joined(
        points(LLAMA_70B, tp=8, batch=[2, 512]),
        points(LLAMA_70B, tp=8, engine=1),
        points(LLAMA_8B, **_H200),
    )
)


def _kind(some: Points) -> str:
    return NOVELTIES[int(SEEN.novelty(some)[0])]


def test_what_is_kept() -> None:
    assert len(SEEN.models) == 2
    assert SEEN.gpus == [[80e9, 3350e9, 989e12], [141e9, 4800e9, 989e12]]
    assert SEEN.pairs == {(0, 0), (0, 1), (1, 0)}
    assert SEEN.ranges["batch"] == (2.0, 512.0)


@pytest.mark.parametrize(
    ("some", "kind"),
    [
        (points(LLAMA_70B), "seen family"),
        (points(LLAMA_8B, engine=1), "seen family"),
        (points(LLAMA_70B, engine=1, **_H200), "new GPU and engine pair"),
        (points(MIXTRAL), "new model"),
        (points(MIXTRAL, engine=1, **_H200), "new model"),
        (points(LLAMA_70B, bandwidth=2000e9), "new GPU"),
        (points(MIXTRAL, memory=24e9), "new GPU"),
        (points(LLAMA_70B, engine=2), "new engine"),
        (points(MIXTRAL, engine=2, memory=24e9), "new engine"),
    ],
)
def test_the_hardest_kind_applies(some: Points, kind: str) -> None:
    assert _kind(some) == kind


def test_shapes_within_three_percent_are_one() -> None:
    near = replace(LLAMA_70B, parameters=LLAMA_70B.parameters * 1.02)
    far = replace(LLAMA_70B, parameters=LLAMA_70B.parameters * 1.05)
    assert _kind(points(near)) == "seen family"
    assert _kind(points(far)) == "new model"
    assert _kind(points(LLAMA_70B, memory=81e9)) == "seen family"


def test_outside_is_beyond_any_range() -> None:
    def outside(**columns: float) -> bool:
        return bool(SEEN.outside(points(LLAMA_70B, **{"tp": 8.0, **columns}))[0])

    assert not outside()
    assert not outside(batch=525.0)
    assert outside(batch=600.0)
    assert outside(tp=16.0)
    assert outside(pp=2.0)
    assert outside(input=100_000.0)
    assert outside(wb=1.0)


def test_a_document_holds_everything() -> None:
    assert Seen.from_dict(SEEN.to_dict()) == SEEN  # type: ignore[arg-type]
