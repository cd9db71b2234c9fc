"""The shipped predictor is what the data give."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foundry.engines.budsim import calibration
from foundry.engines.budsim.artifact import LEVELS, TAILS, load
from foundry.engines.budsim.fitting import fit
from foundry.engines.budsim.fitting.fit import IMITATES, _quantiles, _tails, _target
from foundry.engines.budsim.fitting.rows import Rows, digests
from foundry.engines.budsim.fitting.splits import SPLITS, STRICT_SPLITS
from foundry.engines.budsim.fitting.study import Outcome, Study
from foundry.engines.budsim.novelty import Seen
from foundry.engines.budsim.prediction import NOVELTIES
from foundry.errors import InvalidRequest
from tests.engines.budsim.fitting.synthetic import small_study, synthetic_rows

SHIPPED = load()


def _outcome(study: Study, best: str) -> Outcome:
    residuals = np.linspace(-1, 1, len(study.rows))
    groups = np.full(len(study.rows), "one")
    return Outcome("random", dict.fromkeys(study.blends, 1.0), best, residuals, residuals, groups)


def test_every_novelty_has_a_split_that_imitates_it() -> None:
    assert set(IMITATES) == set(NOVELTIES)
    assert set(IMITATES.values()) <= {*SPLITS, *STRICT_SPLITS}


def test_only_the_members_that_won_are_kept() -> None:
    study = small_study(synthetic_rows(60))
    winners = dict.fromkeys(IMITATES.values(), _outcome(study, "lean residual"))
    winners["model"] = _outcome(study, "prior")
    found = _target(study, winners)
    assert set(found.ensemble.members) == {"step.prior", "step.residual.lean"}
    assert set(found.ensemble.boosters) == {"step.residual.lean"}
    assert found.blends["new model"] == {"step.prior": 1.0}
    assert found.blends["new engine"] == {"step.residual.lean": 1.0}


def test_quantiles_are_of_absolute_errors() -> None:
    errors = np.concatenate([np.arange(1, 51), -np.arange(51, 101)]) / 100.0
    found = dict(zip(LEVELS, _quantiles(errors), strict=True))
    # The higher of two neighbours: no interval is narrower than its level asks.
    assert all(np.mean(np.abs(errors) <= width) >= level for level, width in found.items())
    assert found[0.9] == pytest.approx(0.91)


def test_a_fit_without_data_says_which_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"inferencex_silicon.csv.gz does not exist"):
        fit(tmp_path, tmp_path / "out")


def test_the_card_names_the_data_at_hand(data: Path) -> None:
    assert SHIPPED.card["data"] == digests(data)


def test_the_shipped_novelty_is_that_of_the_data(serving: Rows) -> None:
    found = Seen.of(serving.points)
    assert json.loads(json.dumps(found.to_dict())) == SHIPPED.seen.to_dict()


def test_the_shipped_tails_come_from_the_data(data: Path) -> None:
    found = _tails(data)
    for name in TAILS:
        assert found[name].save_raw("ubj") == SHIPPED.tails[name].save_raw("ubj"), name


def test_the_shipped_step_comes_from_the_data(serving: Rows) -> None:
    found = calibration.fit("step", serving.points, np.log(serving.targets["tpot_ms"] / 1e3))
    assert found == SHIPPED.targets["tpot"].ensemble.calibrations["step"]


def test_a_subset_of_the_data_gives_the_same_bytes_twice(serving: Rows) -> None:
    some = serving.take(np.arange(0, len(serving), 10))
    study = small_study(some)
    winners = dict.fromkeys(IMITATES.values(), _outcome(study, "lean residual"))
    folders = [_target(study, winners) for _ in range(2)]
    artifacts = [replace(SHIPPED, targets={"tpot": one}) for one in folders]
    assert artifacts[0].digest == artifacts[1].digest
    assert artifacts[0].digest != SHIPPED.digest


@pytest.mark.bench
def test_the_data_give_the_shipped_predictor_bit_for_bit(data: Path, tmp_path: Path) -> None:
    found = fit(data, tmp_path)
    assert found.digest == SHIPPED.digest
    assert load(tmp_path).digest == SHIPPED.digest
