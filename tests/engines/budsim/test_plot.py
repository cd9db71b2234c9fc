"""The front as text and as PNG."""

import struct
from pathlib import Path

import pytest

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.plot import X_LABEL, Y_LABEL, png, series, terminal
from foundry.engines.budsim.request import ClusterSpec, NodeGroup, Request, Targets
from foundry.engines.budsim.search.recommend import recommend
from foundry.engines.budsim.search.recommendation import Recommendation
from foundry.errors import InvalidRequest
from tests.fakes.models import LLAMA_8B, LLAMA_70B
from tests.fakes.predictor import FakePredictor
from tests.fakes.questions import CHAT, L4

CATALOGUE = Catalogue.shipped()


def _answer(ttft: float) -> Recommendation:
    request = Request(CHAT, ClusterSpec((L4,)), Targets(max_ttft_ms=ttft))
    return recommend(LLAMA_8B, request, catalogue=CATALOGUE, predictor=FakePredictor())


def test_three_kinds_of_points() -> None:
    answer = _answer(400)
    assert answer.choice is not None
    behind, front, chosen = series(answer)
    assert [kind.label for kind in (behind, front, chosen)] == [
        "misses a target",
        "Pareto front",
        "recommended",
    ]
    assert sorted(front.x) == list(front.x) and len(front.x) == len(answer.front)
    assert chosen.x == (answer.choice.prediction.cost_per_mtok.point,)
    assert chosen.y == (answer.choice.prediction.ttft_p95_ms.point,)
    # Judged on the upper end of an interval that is exp(0.1) wide.
    assert max(front.y) <= 400
    assert len({kind.marker for kind in (behind, front, chosen)}) == 3


def test_an_infeasible_answer_has_no_front() -> None:
    assert [kind.label for kind in series(_answer(0.1))] == [
        "misses a target",
        "nearest, infeasible",
    ]


def test_the_terminal_shows_kinds_and_units() -> None:
    text = terminal(_answer(400), width=80, height=20)
    lines = text.rstrip("\n").split("\n")
    assert len(lines) == 20 and max(len(line) for line in lines) == 80
    for expected in ("x misses a target", "o Pareto front", "* recommended", X_LABEL, Y_LABEL):
        assert expected in text
    assert "\x1b" not in text


def test_the_png_is_written(tmp_path: Path) -> None:
    data = png(_answer(400), tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes() == data
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (960, 600)


def test_nothing_to_draw() -> None:
    request = Request(CHAT, ClusterSpec((NodeGroup("nvidia-l4-24gb", 1),)))
    answer = recommend(LLAMA_70B, request, catalogue=CATALOGUE, predictor=FakePredictor())
    with pytest.raises(InvalidRequest, match="no front to draw"):
        terminal(answer)
