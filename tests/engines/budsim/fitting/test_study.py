"""Training and judging, on measurements with a known law."""

from dataclasses import replace

import numpy as np
import pytest

from foundry.engines.budsim.fitting.coverage import coverage
from foundry.engines.budsim.fitting.splits import folds, labels
from foundry.engines.budsim.fitting.studies import tpot_study, ttft_study
from foundry.engines.budsim.fitting.study import Outcome, Study, judge, mdape, out_of_fold, trained
from foundry.engines.budsim.physics import prior
from tests.engines.budsim.fitting.synthetic import small_study, synthetic_rows

ROWS = synthetic_rows(240)
STUDY = small_study(ROWS)
JUDGED = judge(STUDY, "random")
ALL = np.ones(240, dtype=bool)


def _trees(study: Study) -> dict[str, bytes]:
    boosters = trained(study, ALL).boosters
    return {name: bytes(one.save_raw("ubj")) for name, one in boosters.items()}


def test_the_median_absolute_percentage_error() -> None:
    ratios = np.log([1.1, 0.8, 1.0, 2.0, 1.05])
    assert mdape(ratios) == pytest.approx(10.0)


def test_the_law_is_found_again() -> None:
    """Noise of 10 % has a median of 6.7 %; a fifth of 240 rows is left out."""
    assert set(JUDGED.scores) == {"prior", "lean residual", "lean + prior"}
    assert 6.0 < JUDGED.scores["prior"] < 16.0
    assert JUDGED.best == min(JUDGED.scores, key=lambda name: JUDGED.scores[name])
    assert JUDGED.scores[JUDGED.best] == pytest.approx(mdape(-JUDGED.residuals), rel=0.05)


def test_what_is_left_out_teaches_nothing() -> None:
    """Garbage in the group left out changes no prediction of that group."""
    left = next(iter(folds(ROWS, "GPU")))
    garbage = replace(STUDY, log_target=np.where(left, 7.0, STUDY.log_target))
    clean, dirty = (out_of_fold(one, "GPU") for one in (STUDY, garbage))
    for name, values in clean.items():
        assert values[left].tolist() == dirty[name][left].tolist()
        assert values[~left].tolist() != dirty[name][~left].tolist()


def test_a_refit_gives_the_same_bytes() -> None:
    assert _trees(STUDY) == _trees(STUDY)
    one, two = trained(STUDY, ALL), trained(STUDY, ALL)
    assert one.calibrations == two.calibrations


def test_names_change_no_tree() -> None:
    order = np.random.default_rng(3).permutation(240)
    renamed = replace(ROWS, model=ROWS.model[order], gpu=ROWS.gpu[order])
    assert _trees(small_study(renamed)) == _trees(STUDY)


def test_a_blend_is_the_mean_of_its_members() -> None:
    ensemble = trained(STUDY, ALL)
    terms = prior(ROWS.points)
    singles = {name: ensemble.predict(ROWS.points, terms, {name: 1.0}) for name in ensemble.members}
    for blend in STUDY.blends.values():
        expected = sum(weight * singles[name] for name, weight in blend.items())
        assert ensemble.predict(ROWS.points, terms, blend) == pytest.approx(expected)


def test_a_residual_member_stands_on_the_prior() -> None:
    ensemble = trained(STUDY, ALL)
    terms = prior(ROWS.points)
    base = ensemble.calibrations["step"].log_seconds(ROWS.points, terms)
    assert ensemble.predict(ROWS.points, terms, {"step.prior": 1.0}).tolist() == base.tolist()
    found = ensemble.predict(ROWS.points, terms, {"step.residual.lean": 1.0})
    assert np.median(np.abs(found - base)) < 0.2
    assert np.std(STUDY.log_target - found) < np.std(STUDY.log_target - base)


@pytest.mark.parametrize("build", [tpot_study, ttft_study])
def test_every_blend_is_a_mean_of_members(build: object) -> None:
    rows = replace(ROWS, targets={**ROWS.targets, "ttft_ms": ROWS.targets["tpot_ms"]})
    study: Study = build(rows)  # type: ignore[operator]
    names = {one.name for one in study.members}
    assert len(names) == len(study.members)
    for blend in study.blends.values():
        assert sum(blend.values()) == pytest.approx(1.0)
        assert set(blend) <= names
    assert len(study.blends["prior"]) == 1


def _outcome(residuals: list[float], groups: list[str]) -> Outcome:
    values = np.asarray(residuals)
    return Outcome("GPU", {}, "prior", values, values, np.asarray(groups))


def test_coverage_takes_no_width_from_the_group_itself() -> None:
    errors = [0.1] * 10 + [0.2] * 10 + [5.0] * 10
    found = coverage(_outcome(errors, ["a"] * 10 + ["b"] * 10 + ["c"] * 10))
    # The wild group is outside of what the others suggest; they are inside of what it suggests.
    assert found == {"mean": pytest.approx(2 / 3), "median": 1.0, "worst": 0.0}


def test_coverage_of_like_groups_is_the_confidence() -> None:
    rng = np.random.default_rng(0)
    groups = [f"g{index % 20}" for index in range(4000)]
    found = coverage(_outcome(rng.normal(0, 1, 4000).tolist(), groups), 0.8)
    assert found["mean"] == pytest.approx(0.8, abs=0.01)


def test_a_single_group_covers_nothing() -> None:
    assert np.isnan(coverage(_outcome([0.1, 0.2], ["a", "a"]))["mean"])


def test_groups_of_an_outcome_are_those_left_out() -> None:
    assert JUDGED.groups.tolist() == labels(ROWS, "random").tolist()
