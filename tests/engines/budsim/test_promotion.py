"""When to fit again, and which fit is used."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry.engines.budsim.loop import DAY_S, Window
from foundry.engines.budsim.promotion import promotable, refit_due

INCUMBENT = {"tpot/new GPU": 15.0, "tpot/new model": 21.0, "ttft/family": 27.0}
SITE = {"a": (20.0, 15.0), "b": (10.0, 9.0)}


def scaled(factor: float) -> dict[str, float]:
    return {split: error * factor for split, error in INCUMBENT.items()}


def test_a_clearly_better_model_is_promoted() -> None:
    decision = promotable(INCUMBENT, scaled(0.97), SITE)
    assert (decision.promote, decision.reasons) == (True, ())


@pytest.mark.parametrize(
    ("candidate", "site", "reason"),
    [
        (scaled(0.99), SITE, "cross-validation improves by 1.0%; 2 % is needed"),
        (scaled(0.8) | {"ttft/family": 28.4}, SITE, "ttft/family worsens by 5.2%; 5 % is allowed"),
        (scaled(0.9), {"a": (10.0, 10.5)}, "this site's own windows do not improve (+5.0%)"),
        (scaled(0.9), {}, "no deployment of this site has measured windows"),
        (scaled(0.9), {"a": (10.0, math.nan)}, "no deployment of this site has measured windows"),
        ({"tpot/new GPU": 1.0}, SITE, "tpot/new model was not measured for both"),
        (scaled(0.9) | {"ttft/family": math.nan}, SITE, "ttft/family was not measured for both"),
    ],
)
def test_otherwise_it_stays_a_shadow(
    candidate: dict[str, float], site: dict[str, tuple[float, float]], reason: str
) -> None:
    decision = promotable(INCUMBENT, candidate, site)
    assert not decision.promote
    assert reason in decision.reasons


@given(
    st.lists(st.floats(1.0, 10.0), min_size=3, max_size=3),
    st.floats(0.5, 2.0),
)
def test_a_worse_candidate_is_never_promoted(worse: list[float], site: float) -> None:
    candidate = {
        split: error * factor
        for (split, error), factor in zip(INCUMBENT.items(), worse, strict=True)
    }
    assert not promotable(INCUMBENT, candidate, {"a": (10.0, 10.0 * site)}).promote


def test_a_refit_is_due_after_two_hundred_windows_or_a_week() -> None:
    def windows(count: int) -> list[Window]:
        return [Window("e", "g", "vllm", "1", 200, {}, {}, 100.0 + i) for i in range(count)]

    assert not refit_due(windows(199), 0.0, 400.0)
    assert refit_due(windows(200), 0.0, 400.0)
    assert not refit_due(windows(200), 100.0, 400.0)
    assert refit_due(windows(1), 0.0, 7 * DAY_S)
    assert not refit_due([], 0.0, 70 * DAY_S)
