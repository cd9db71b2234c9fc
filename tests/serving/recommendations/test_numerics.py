"""budsim behind the wire: real predictor, real search, no server."""

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from foundry.engines.budsim.configuration import Configurations
from foundry.engines.budsim.model_config import model_spec
from foundry.errors import InvalidConfiguration, InvalidRequest
from foundry.serving.engine.hardware import Hardware, Node
from foundry.serving.engine.options import EngineOptions
from foundry.serving.recommendations import numerics
from foundry.serving.recommendations.domain import Question
from foundry.serving.recommendations.schemas import (
    ConfigurationIn,
    Demand,
    PredictIn,
    PredictionOut,
    ValidateIn,
)
from tests.serving.recommendations.questions import CLUSTER, LLAMA, WORKLOAD, question

L40S = "nvidia-l40s-48gb"


def _question(**fields: object) -> Question:
    asked = question(**fields)
    assert asked.cluster is not None
    demand = Demand(
        workload=asked.workload,
        cluster=asked.cluster,
        targets=asked.targets,
        policy=asked.policy,
        method=asked.method,
    )
    return Question(LLAMA, None, demand.request(), {})


def _predict(rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    asked = PredictIn.model_validate(
        {"config": LLAMA, "workload": WORKLOAD, "configurations": rows, **fields}
    )
    found: list[dict[str, Any]] = orjson.loads(numerics.predict_json(LLAMA, None, {}, asked))[
        "data"
    ]
    return found


def test_a_recommendation_is_json_and_the_same_each_time() -> None:
    asked = _question(targets={"max_tpot_ms": 100})
    found = numerics.recommend(asked)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == numerics.recommend(asked)
    assert found["feasible"] is True
    config, choice = found["endpoint_config"], found["choice"]
    assert config["resources"]["gpu_type"] == L40S  # type: ignore[index]
    assert choice["prediction"]["tpot_ms"]["high"] <= 100  # type: ignore[index]
    assert "TPOT" in found["explanation"]["text"]  # type: ignore[index]


def test_an_answer_for_a_small_machine_can_be_placed_there() -> None:
    group = {"gpu": "cpu", "gpus_per_node": 1, "cores_per_node": 1.0, "memory_gb_per_node": 7.0}
    asked = _question(workload=WORKLOAD | {"users": 1}, cluster={"groups": [group]})
    tiny = LLAMA | {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8}
    found = numerics.recommend(replace(asked, config=tiny))
    config = found["endpoint_config"]
    assert config["resources"]["cpu_cores"] == 1  # type: ignore[index]
    machine = Hardware((Node(cpus=2.0, memory_gb=7.4),))
    assert EngineOptions.of(config).lacks(machine) == []  # type: ignore[arg-type]


def test_an_impossible_target_names_what_binds() -> None:
    found = numerics.recommend(_question(targets={"max_tpot_ms": 0.01}))
    assert (found["feasible"], found["binding"]) == (False, "max_tpot_ms")


def test_what_if_answers_in_the_order_of_the_question() -> None:
    rows = [{"gpu": L40S, "replicas": count} for count in (1, 2, 4)]
    found = _predict(rows)
    for row in found:
        PredictionOut.model_validate(row)
    hours = [row["cost_per_hour"] for row in found]
    assert hours == pytest.approx([hours[0], 2 * hours[0], 4 * hours[0]])
    tpot = [row["tpot_ms"]["point"] for row in found]
    assert tpot[0] >= tpot[1] >= tpot[2]


def test_rows_are_the_predictions_by_columns() -> None:
    rows = [ConfigurationIn(gpu=L40S, tensor_parallel_size=tp) for tp in (1, 2, 4)]
    spec = model_spec(LLAMA)
    found = numerics.choose_predictor().predict(
        spec,
        Configurations.of([numerics.configuration_of(row, spec) for row in rows]),
        question().workload.workload(),
        catalogue=numerics.build_catalogue({}),
    )
    assert list(numerics.rows_of(found)) == [numerics.to_plain(found.at(i)) for i in range(3)]


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"max_model_len": 200_000}, "max_model_len", "200000 is outside 1 to 8192"),
        ({"tensor_parallel_size": 3}, "tensor_parallel_size", "3 does not divide the 32"),
    ],
)
def test_what_the_model_cannot_do_is_not_predicted(
    row: dict[str, object], field: str, reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        _predict([{"gpu": L40S}, {"gpu": L40S, **row}])
    assert caught.value.details["param"] == f"configurations.1.{field}"


def test_the_longest_request_is_the_models_where_that_is_shorter() -> None:
    short = model_spec({**LLAMA, "max_position_embeddings": 2048})
    for asked, used in ((None, 2048), (1024, 1024)):
        row = ConfigurationIn(gpu=L40S, max_model_len=asked)
        assert numerics.configuration_of(row, short).max_model_len == used
    unset = ConfigurationIn(gpu=L40S)
    assert numerics.configuration_of(unset, model_spec(LLAMA)).max_model_len == 8192


def test_requests_that_the_model_does_not_hold_are_not_predicted() -> None:
    with pytest.raises(InvalidRequest, match=r"requests of 9024 tokens \(p95\) exceed"):
        _predict(
            [{"gpu": L40S}], workload={"users": 1, "input": {"mean": 9000}, "output": {"mean": 24}}
        )


def test_ten_thousand_configurations_are_one_call() -> None:
    rows = [{"gpu": L40S, "max_num_seqs": 1 + i} for i in range(10_000)]
    began = time.perf_counter()
    found = _predict(rows)
    assert len(found) == 10_000
    assert time.perf_counter() - began < 10


def _validated(document: str | dict[str, object], **fields: Any) -> dict[str, Any]:
    asked = ValidateIn.model_validate(
        {
            "config": LLAMA,
            "workload": WORKLOAD,
            "cluster": CLUSTER,
            "deployment": document,
            **fields,
        }
    )
    return numerics.validate_deployment(LLAMA, None, {}, asked)


def test_a_manual_configuration_is_predicted_beside_its_defaults() -> None:
    sizes = "replicas: 2, config: {max_num_seqs: 32}"
    found = _validated(f"deployment: {{resources: {{gpu_type: {L40S}}}, {sizes}}}")
    assert found["configuration"]["replicas"] == 2
    assert found["configuration"]["max_model_len"] == 8192
    assert found["configuration"]["resources"]["gpu_count"] == 1
    PredictionOut.model_validate(found["prediction"])
    assert found["predictor_version"] == numerics.choose_predictor().version


def test_every_violation_has_its_path() -> None:
    deployment = {
        "config": {"tensor_parallel_size": 3, "speed": 1},
        "resources": {"gpu_type": "nvidia-t4-16gb"},
    }
    with pytest.raises(InvalidConfiguration) as caught:
        _validated({"deployment": deployment})
    violations = caught.value.details["violations"]
    assert {one["path"] for one in violations} == {  # type: ignore[attr-defined]
        "$.deployment.config.speed",
        "$.deployment.resources.gpu_type",
    }
    with pytest.raises(InvalidRequest, match="on which GPUs"):
        _validated("deployment: {}", cluster=None)


def test_targets_of_a_manual_configuration_are_judged_on_the_pessimistic_end() -> None:
    deployment = {"config": {"max_num_seqs": 64}, "resources": {"gpu_type": L40S}}
    free = _validated({"deployment": deployment})
    assert (free["targets"], free["overloaded"]) == ([], False)
    high = free["prediction"]["tpot_ms"]["high"]
    targets = {"max_tpot_ms": high * 0.99, "max_cost_per_hour": 1000.0}
    found = {
        row["name"]: row
        for row in _validated({"deployment": deployment}, targets=targets)["targets"]
    }
    assert found["max_tpot_ms"]["bound"] == pytest.approx(high)
    assert found["max_tpot_ms"]["slack"] == pytest.approx(1 - 1 / 0.99)
    assert [row["met"] for row in found.values()] == [False, True]
    workload = {"rate": 1e5, "input": {"mean": 1024}, "output": {"mean": 256}}
    assert _validated({"deployment": deployment}, workload=workload)["overloaded"] is True


def test_prices_are_kept_by_catalogue_id() -> None:
    assert numerics.check_prices({"L4": 0.5, "H100": None}) == {
        "nvidia-l4-24gb": 0.5,
        "nvidia-h100-80gb": None,
    }
    with pytest.raises(InvalidRequest, match="nvidia-l4-24gb"):
        numerics.check_prices({"nvidia-l5-24gb": 1.0})


def test_what_is_not_finite_becomes_null() -> None:
    assert numerics.to_plain({"a": [np.inf, float("nan"), 1.5, 2, "x", None]}) == {
        "a": [None, None, 1.5, 2, "x", None]
    }
