"""A site's own windows: as rows, by weight, and what they teach."""

from dataclasses import fields, replace

import numpy as np
import pytest

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configuration, Configurations
from foundry.engines.budsim.fitting.rows import Rows
from foundry.engines.budsim.fitting.site import SiteRow, joined, site_of, site_point, site_scores
from foundry.engines.budsim.fitting.study import Extra, Study, _elsewhere, trained
from foundry.engines.budsim.loop import DAY_S
from foundry.engines.budsim.physics import prior
from foundry.engines.budsim.points import Points
from foundry.engines.budsim.prediction import NOVELTIES
from foundry.engines.budsim.request import Lengths, Workload
from tests.engines.budsim.fitting.synthetic import small_study, synthetic_rows
from tests.engines.budsim.serving_cases import random_points
from tests.fakes.models import LLAMA_8B

NOW = 1_700_000_000.0
SLOWER = 1.6


def row(
    points: Points, index: int, deployment: str = "a", version: str = "2", age_days: float = 0.0
) -> SiteRow:
    """The prior's TPOT and TTFT are predicted; the machine is slower than that."""
    point = {item.name: float(getattr(points, item.name)[index]) for item in fields(Points)}
    return SiteRow(
        deployment,
        "cpu",
        "vllm",
        version,
        NOW - age_days * DAY_S,
        200,
        point,
        actual={"tpot_ms": 20.0 * SLOWER, "ttft_p50_ms": 150.0, "ttft_mean_ms": 160.0},
        predicted={"tpot_ms": 20.0, "ttft_p50_ms": 100.0},
    )


def test_an_outcome_becomes_a_row_without_its_correction() -> None:
    points = random_points(1, 0)
    found = SiteRow.of(
        {
            "endpoint_id": "e",
            "gpu": "cpu",
            "engine": "vllm",
            "engine_version": "2",
            "started_at": "2026-01-01T00:00:00+00:00",
            "n": 200,
            "point": row(points, 0).point,
            "actual": row(points, 0).actual,
            "predicted": {"tpot_ms": [20, 30, 40], "ttft_p50_ms": [50, 100, 200]},
            "applied": {"tpot_ms": [1.5, 1.0]},
        }
    )
    assert found.predicted == {"tpot_ms": 20.0, "ttft_p50_ms": 100.0}
    assert found.started_at == 1767225600.0
    assert found.usable
    assert not replace(found, point={}).usable
    assert not replace(found, actual={"tpot_ms": 20.0}).usable


def test_windows_weigh_by_age_and_version() -> None:
    points = random_points(4, 0)
    ages = ((0, "2"), (30, "2"), (0.5, "1"), (60, "1"))
    rows = [row(points, i, version=v, age_days=age) for i, (age, v) in enumerate(ages)]
    site = site_of(rows, synthetic_rows(10))
    assert site is not None
    # In order of time: 60, 30, half a day, now.
    assert site.weight == pytest.approx([0.25 / 4, 0.5, 0.25 * 0.5 ** (0.5 / 30), 1.0])
    assert site.incumbent["tpot"] == pytest.approx(np.full(4, np.log(SLOWER)))
    assert site.incumbent["ttft"] == pytest.approx(np.full(4, np.log(1.5)))
    assert site_of([replace(rows[0], point={})], synthetic_rows(10)) is None


def test_a_known_shape_has_the_name_of_its_model() -> None:
    base = synthetic_rows(10)
    other = replace(random_points(1, 99), hidden=np.asarray([1234.0]))
    rows = [row(base.points, 3), row(other, 0)]
    site = site_of(rows, base)
    assert site is not None
    assert site.rows.model[0] == base.model[3]
    assert site.rows.model[1].startswith("site ")


def test_each_deployment_is_left_out_and_a_single_one_forward_in_time() -> None:
    points = random_points(8, 0)
    base = synthetic_rows(10)
    two = site_of([row(points, i, "ab"[i % 2], age_days=i) for i in range(8)], base)
    assert two is not None
    assert {name: left.sum() for name, left in two.left_out()} == {"a": 4, "b": 4}
    one = site_of([row(points, i, age_days=i) for i in range(8)], base)
    assert one is not None
    ((name, left),) = one.left_out()
    assert (name, left.tolist()) == ("a", [False] * 6 + [True] * 2)


def _study(base: Rows, extra: Extra | None) -> Study:
    return replace(small_study(base), extra=extra)


def test_what_a_site_measures_is_learnt_and_scored() -> None:
    """Two deployments of one machine that is slower than the law: each teaches the other."""
    base = synthetic_rows(200)
    points = random_points(40, 5)
    law = small_study(base)
    plain = trained(law, np.ones(200, dtype=bool))
    logs = plain.predict(points, prior(points), law.blends["prior"])
    rows = [
        replace(
            row(points, i, "ab"[i % 2]),
            actual={
                "tpot_ms": float(np.exp(logs[i])) * 1e3 * SLOWER,
                "ttft_p50_ms": 1.0,
                "ttft_mean_ms": 1.0,
            },
            predicted={"tpot_ms": float(np.exp(logs[i])) * 1e3, "ttft_p50_ms": 1.0},
        )
        for i in range(40)
    ]
    site = site_of(rows, base)
    assert site is not None
    study = _study(base, site.extra(law))
    blends = {"tpot": dict.fromkeys(NOVELTIES, study.blends["lean residual"])}
    found = site_scores(site, [study], blends)
    assert set(found) == {"a", "b"}
    for before, after in found.values():
        assert before == pytest.approx(100 * (1 - 1 / SLOWER), abs=0.1)
        assert after < before


def test_without_outcomes_the_bytes_are_the_same() -> None:
    study = small_study(synthetic_rows(80))
    kept = np.arange(80) % 4 != 0
    none = Extra(study.rows.take(~kept), study.log_target[~kept], np.ones(20))
    for name, booster in trained(study, kept).boosters.items():
        same = trained(replace(study, extra=none), kept, np.zeros(20, dtype=bool))
        assert same.boosters[name].save_raw("ubj") == booster.save_raw("ubj")


def test_what_is_left_out_stays_unseen() -> None:
    base = synthetic_rows(30)
    extra = Extra(base.take(np.arange(10)), np.zeros(10), np.ones(10))
    study = _study(base, extra)
    left = base.gpu == "one"
    found = _elsewhere(study, "GPU", left)
    assert found is not None
    assert found.tolist() == [name != "one" for name in base.gpu[:10]]
    assert _elsewhere(_study(base, None), "GPU", left) is None


def test_the_operating_point_of_a_deployment() -> None:
    load = Workload(Lengths.of(1024), Lengths.of(128), users=8.0)
    rows = Configurations.of([Configuration(gpu="cpu", replicas=2, max_num_seqs=4)])
    found = site_point(LLAMA_8B, rows, load, Catalogue.shipped())
    assert (found["batch"], found["input"], found["layers"]) == (4.0, 1024.0, 32.0)
    assert found.keys() == {item.name for item in fields(Points)}
    few = Configurations.of([Configuration(gpu="cpu", replicas=2, max_num_seqs=3)])
    assert site_point(LLAMA_8B, few, load, Catalogue.shipped()) == {}


def test_points_join_in_order() -> None:
    one, two = random_points(3, 0), random_points(2, 1)
    found = joined(one, two)
    assert found.batch.tolist() == [*one.batch.tolist(), *two.batch.tolist()]
