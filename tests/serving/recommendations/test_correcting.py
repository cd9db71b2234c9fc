"""What deployments taught, on its way into the next answer."""

import json

import numpy as np
import pytest

from foundry.engines.budsim.configuration import Configuration, Configurations
from foundry.engines.budsim.loop import Bias, Correction
from foundry.engines.budsim.model_config import model_spec
from foundry.serving.recommendations import numerics
from foundry.serving.recommendations.correcting import CorrectedPredictor
from foundry.serving.recommendations.learning import (
    Learnt,
    TrainedModel,
    digest,
    of_document,
    round_values,
    to_document,
)
from foundry.serving.recommendations.schemas import PredictIn
from tests.serving.recommendations.questions import LARGE, LLAMA, question

L40S, L4, H100 = "nvidia-l40s-48gb", "nvidia-l4-24gb", "nvidia-h100-80gb"
MEASURED = {"memory_gb": 32.0, "bandwidth_gbps": 40.0, "bf16_tflops": 0.4}
BIAS = Bias(
    {
        (L40S, "vllm", "0.29", "tpot_ms"): Correction(1.7, 1.0, 5.0, 100.0),
        (L40S, "vllm", "0.29", "throughput_tps"): Correction(0.5, 1.0, 5.0, 100.0),
    }
)


def test_corrections_survive_storage() -> None:
    learnt = Learnt(BIAS, TrainedModel("2", "a" * 64), {(L4, "vllm"): "old"}, {"cpu": MEASURED})
    stored = of_document(json.loads(json.dumps(to_document(learnt))))
    assert stored.bias.factor(L40S, "vllm", "0.29", "tpot_ms") == 1.7
    assert stored.bias.factor(L40S, "vllm", None, "tpot_ms") == 1.7
    assert stored.bias.factor(L4, "vllm", None, "tpot_ms") == 1.0
    assert (stored.model, stored.stale, stored.probed) == (
        learnt.model,
        learnt.stale,
        learnt.probed,
    )
    assert digest(stored) == digest(learnt) != digest(Learnt())
    parts = (Learnt(BIAS), Learnt(model=learnt.model), Learnt(stale=learnt.stale))
    assert len({digest(part) for part in (*parts, Learnt(probed=learnt.probed), Learnt())}) == 5
    assert digest(Learnt(stale={(L4, "vllm"): "in other words"})) == digest(parts[2])


def test_a_correction_that_hardly_moves_asks_nothing_new() -> None:
    cells = dict(BIAS.cells)
    cells[L40S, "vllm", "0.29", "tpot_ms"] = Correction(1.701, 1.0, 6.0, 900.0)
    assert digest(Learnt(Bias(cells))) == digest(Learnt(BIAS))
    cells[L40S, "vllm", "0.29", "tpot_ms"] = Correction(1.75, 1.0, 6.0, 900.0)
    assert digest(Learnt(Bias(cells))) != digest(Learnt(BIAS))


def test_only_what_was_measured_is_corrected() -> None:
    rows = Configurations.of([Configuration(gpu=L40S), Configuration(gpu=L4)])
    spec, load = model_spec(LLAMA), question().workload.workload()
    catalogue = numerics.build_catalogue({})
    plain, corrected = numerics.choose_predictor(), numerics.choose_predictor(Learnt(BIAS))
    assert isinstance(corrected, CorrectedPredictor)
    assert corrected.version == f"{plain.version}+{digest(Learnt(BIAS))[:8]}"
    before = plain.predict(spec, rows, load, catalogue=catalogue)
    after = corrected.predict(spec, rows, load, catalogue=catalogue)
    here, there = rows.gpus.index(L40S), rows.gpus.index(L4)
    mine = int(np.flatnonzero(rows.gpu == here)[0])
    other = int(np.flatnonzero(rows.gpu == there)[0])
    assert after.tpot_ms.point[mine] == pytest.approx(1.7 * before.tpot_ms.point[mine])
    assert after.tpot_ms.high[mine] == pytest.approx(1.7 * before.tpot_ms.high[mine])
    assert after.cost_per_mtok.point[mine] == pytest.approx(2 * before.cost_per_mtok.point[mine])
    assert after.ttft_p50_ms.point[mine] == before.ttft_p50_ms.point[mine]
    assert after.tpot_ms.point[other] == before.tpot_ms.point[other]
    assert numerics.choose_predictor(Learnt()).version == plain.version


def test_a_stale_pair_is_not_trusted_and_says_so() -> None:
    reason = "the median error has been above 30% for an hour: 70%"
    learnt = Learnt(stale={(H100, "vllm"): reason})
    asked = PredictIn.model_validate(
        {
            "config": LARGE,
            "workload": {"users": 16, "input": {"mean": 1024}, "output": {"mean": 256}},
            "configurations": [{"gpu": "h100"}, {"gpu": H100, "runtime": "sglang"}, {"gpu": L4}],
        }
    )
    before = json.loads(numerics.predict_json(LARGE, None, {}, asked))
    found = json.loads(numerics.predict_json(LARGE, None, {}, asked, learnt))
    assert [row["confidence"] for row in before["data"]] == ["high", "high", "low"]
    assert [row["confidence"] for row in found["data"]] == ["low", "high", "low"]
    assert found["data"][0]["tpot_ms"] == before["data"][0]["tpot_ms"]
    (note,) = found["notes"]
    assert note.startswith(f"predictions of {H100} with vllm are stale: {reason}")
    assert before["notes"] == []
    others = asked.model_copy(update={"configurations": asked.configurations[2:]})
    assert json.loads(numerics.predict_json(LARGE, None, {}, others, learnt))["notes"] == []


def test_probed_hardware_replaces_the_datasheet() -> None:
    learnt = Learnt(probed={"cpu": MEASURED})
    found = numerics.build_catalogue({"cpu": 0.5}, learnt).gpu("cpu")
    assert (found.memory_gb, found.bandwidth_gbps, found.bf16_tflops) == (32.0, 40.0, 0.4)
    assert (found.price_per_hour, found.verified) == (0.5, True)
    assert numerics.read_versions({}, learnt).catalogue != numerics.read_versions({}).catalogue
    assert round_values({"a": 12.3456, "b": 0.0012345}) == {"a": 12.3, "b": 0.00123}
