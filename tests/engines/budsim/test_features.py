"""What the regressors see: finite numbers about shapes and loads, and no name."""

from dataclasses import fields, replace

import numpy as np
import pytest

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.features import full, lean, logarithm, matrix
from foundry.engines.budsim.fitting.rows import _shapes
from foundry.engines.budsim.physics import prior
from foundry.engines.budsim.points import ENGINES, Points
from tests.engines.budsim.serving_cases import points, random_points
from tests.fakes.models import MIXTRAL

SOME = random_points(50)
FULL = full(SOME, prior(SOME), np.zeros(50))
LEAN = lean(SOME, prior(SOME), np.zeros(50))


def test_no_feature_is_an_identity() -> None:
    known = {gpu.name.lower() for gpu in Catalogue.shipped()} | set(Catalogue.shipped().ids)
    known |= {name.split("/")[-1].lower() for name in _shapes()[0]}
    words = {word for name in FULL for word in name.lower().replace("_", ".").split(".")}
    assert not words & known
    assert not {"model", "gpu", "name", "vendor", "id"} & words
    # Points hold numbers only, so nothing else can reach a feature.
    assert {item.type for item in fields(Points)} == {"Column"} or all(
        getattr(SOME, item.name).dtype == np.float64 for item in fields(Points)
    )


def test_lean_features_leave_shapes_and_datasheets_out() -> None:
    assert set(LEAN) < set(FULL)
    assert not {"layers", "hidden", "parameters", "bandwidth", "flops", "memory"} & set(LEAN)
    assert {"layers", "hidden", "parameters", "bandwidth", "flops", "memory"} <= set(FULL)


def test_a_matrix_keeps_the_order_of_the_names() -> None:
    table = matrix(FULL)
    assert table.shape == (50, len(FULL))
    for column, name in enumerate(FULL):
        assert table[:, column].tolist() == FULL[name].tolist()


def test_features_are_finite_for_every_kind_of_point() -> None:
    hostile = replace(SOME, link=np.zeros(50), cached=SOME.input, batch=np.ones(50))
    for some in (SOME, hostile):
        assert np.isfinite(matrix(full(some, prior(some), np.zeros(50)))).all()


def test_one_engine_column_is_on() -> None:
    some = points(engine=range(len(ENGINES)))
    found = lean(some, prior(some), np.zeros(len(ENGINES)))
    table = np.column_stack([found[f"engine.{name}"] for name in ENGINES])
    assert table.tolist() == np.eye(len(ENGINES)).tolist()


def test_values_by_hand() -> None:
    some = points(MIXTRAL, tp=4, batch=32, input=2048, output=256)
    terms = prior(some)
    found = full(some, terms, np.full(1, -3.5))
    assert found["tp"][0] == 2.0
    assert found["batch"][0] == 5.0
    assert found["lengths"][0] == pytest.approx(np.log(8))
    assert found["mixture"][0] == 1.0
    assert found["calibrated"][0] == -3.5
    assert found["mixed"][0] == pytest.approx(np.log(terms.mixed.total[0]))
    assert found["mixed.balance"][0] == pytest.approx(
        np.log(terms.mixed.compute[0] / (terms.mixed.weights[0] + terms.mixed.kv[0]))
    )
    load = 32 * terms.prefill.total[0] / (256 * terms.mixed.total[0])
    assert found["load"][0] == pytest.approx(np.log(load))


def test_an_absent_term_has_a_bounded_logarithm() -> None:
    assert logarithm(np.asarray([0.0, 1.0])).tolist() == [np.log(1e-12), 0.0]
