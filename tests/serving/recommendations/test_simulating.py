"""Replays behind the wire: real predictor, no server."""

import orjson
import pytest

from foundry.errors import InvalidRequest
from foundry.serving.recommendations import numerics, simulating
from foundry.serving.recommendations.schemas import PredictIn, SimulateIn
from tests.serving.recommendations.questions import LLAMA, WORKLOAD

L40S = "nvidia-l40s-48gb"


def test_a_simulation_agrees_with_the_prediction_at_low_load() -> None:
    asked = SimulateIn.model_validate(
        {
            "config": LLAMA,
            "configuration": {"gpu": L40S},
            "workload": {**WORKLOAD, "users": 1},
            "requests": 50,
        }
    )
    found = simulating.simulate_deployment(LLAMA, None, {}, asked)
    predicted = PredictIn.model_validate(
        {
            "config": LLAMA,
            "configurations": [{"gpu": L40S}],
            "workload": {**WORKLOAD, "users": 1},
        }
    )
    (row,) = orjson.loads(numerics.predict_json(LLAMA, None, {}, predicted))["data"]
    assert found["percentiles"]["tpot_ms"]["p50"] == pytest.approx(row["tpot_ms"]["point"], rel=0.1)
    assert found["rejected"] == 0
    assert found == simulating.simulate_deployment(LLAMA, None, {}, asked)


def test_a_trace_is_replayed_as_it_came() -> None:
    trace = [
        {"arrival_s": float(i), "input_tokens": 100, "output_tokens": 1 + i} for i in range(10)
    ]
    asked = SimulateIn.model_validate(
        {"config": LLAMA, "configuration": {"gpu": L40S}, "trace": trace}
    )
    found = simulating.simulate_deployment(LLAMA, None, {}, asked)
    assert found["requests"] == 10
    assert found["output_tokens"] == 55


def test_a_model_that_cannot_be_divided_so_is_not_replayed() -> None:
    asked = SimulateIn.model_validate(
        {
            "config": LLAMA,
            "configuration": {"gpu": L40S, "tensor_parallel_size": 3},
            "workload": WORKLOAD,
        }
    )
    with pytest.raises(InvalidRequest, match="3 does not divide the 32 attention heads") as caught:
        simulating.simulate_deployment(LLAMA, None, {}, asked)
    assert caught.value.details["param"] == "configuration.tensor_parallel_size"
