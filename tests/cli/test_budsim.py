"""`foundry budsim` as a user types it, against a server that gives fixed answers."""

import json
from pathlib import Path
from typing import Any

import pytest

from foundry.cli.main import run
from tests.cli.conftest import Server
from tests.sdk.answers import AT, JOB_ID
from tests.serving.recommendations.questions import LLAMA, WORKLOAD

PREDICTION: dict[str, Any] = {
    **{
        name: {"low": 100.0, "point": 120.0, "high": 150.0}
        for name in ("ttft_p50_ms", "ttft_p95_ms", "latency_p95_ms", "throughput_tps")
    },
    "tpot_ms": {"low": 10.0, "point": 12.5, "high": 15.0},
    "cost_per_mtok": {"low": 0.5, "point": 0.625, "high": None},
    "cost_per_hour": 3.72,
    "fits": True,
    "slots": 90,
    "utilization": 0.5,
    "novelty": "new GPU",
    "confidence": "low",
}
CONFIGURATION: dict[str, Any] = {
    "gpu": "nvidia-l40s-48gb",
    "runtime": "vllm",
    "tensor_parallel_size": 2,
    "pipeline_parallel_size": 1,
    "replicas": 3,
    "max_model_len": 2048,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 2048,
    "gpu_memory_utilization": 0.9,
    "quantization": "none",
    "kv_cache_dtype": "auto",
}
POINT = {"cost_per_mtok": 0.625, "ttft_p95_ms": 120.0, "throughput_tps": 120.0}
RESULT: dict[str, Any] = {
    "feasible": True,
    "choice": {"configuration": CONFIGURATION, "prediction": PREDICTION},
    "resources": {
        "gpu_type": "nvidia-l40s-48gb",
        "gpu_count": 2,
        "cpu_cores": 8,
        "memory_gb": 28,
    },
    "targets": [
        {
            "name": "max_ttft_ms",
            "percentile": "p95",
            "limit": 500.0,
            "bound": 150.0,
            "slack": 0.7,
            "met": True,
            "relaxed": None,
        }
    ],
    "binding": "max_ttft_ms",
    "overloaded": False,
    "alternatives": [{"configuration": {**CONFIGURATION, "replicas": 4}, "prediction": PREDICTION}],
    "front": [POINT, {**POINT, "cost_per_mtok": 0.8, "ttft_p95_ms": 90.0}],
    "infeasible": [],
    "regret": None,
    "tried": 10,
    "possible": 10,
    "exhaustive": True,
    "shortage": None,
    "notes": [],
    "digests": {"inputs": "a", "catalogue": "b", "model": "c"},
    "endpoint_config": {key: CONFIGURATION[key] for key in CONFIGURATION if key != "gpu"},
    "explanation": {"text": "Bottleneck: bandwidth."},
}


def _row(**fields: object) -> dict[str, object]:
    return {
        "id": JOB_ID,
        "state": "DONE",
        "method": "REGRESSOR",
        "model": "smol@1.0.0",
        "request": {},
        "digest": "d",
        "catalogue_digest": "c",
        "predictor_version": "1",
        "attempt": 1,
        "result": RESULT,
        "error": None,
        "created_by": "ada",
        "created_at": AT,
        "started_at": AT,
        "finished_at": AT,
        **fields,
    }


def test_a_recommendation_is_shown_with_its_reason_and_alternatives(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/budsim/recommendations"] = (202, _row())
    command = "budsim recommend smol --users 16 --slo ttft=500 --gpu nvidia-l40s-48gb:4"
    assert run(command.split()) == 0
    shown = capsys.readouterr().out
    for words in (
        "meets every target",
        "2 x nvidia-l40s-48gb per replica",
        "max_ttft_ms (binds)",
        "+70%",
        "confidence low: new GPU",
        "Bottleneck: bandwidth.",
        "0.625",
        "Pareto front",
    ):
        assert words in shown, shown
    (path, asked), *_ = server.asked
    assert path == "/budsim/recommendations"
    assert asked["model"] == "smol"
    assert asked["workload"]["users"] == 16
    assert asked["targets"]["max_ttft_ms"] == 500
    assert asked["cluster"]["groups"][0]["gpus_per_node"] == 4


def test_a_search_that_takes_longer_is_waited_for(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/budsim/recommendations"] = (202, _row(state="RUNNING", result=None))
    server.answers[f"/budsim/recommendations/{JOB_ID}"] = (200, _row())
    assert run(["budsim", "recommend", "smol", "--users", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"id": JOB_ID, **RESULT}


def test_a_failed_search_is_an_error_with_its_own_exit_code(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"code": "invalid_value", "message": "requests exceed the model's 512 tokens"}
    server.answers["/budsim/recommendations"] = (
        202,
        _row(state="FAILED", result=None, error=error),
    )
    assert run(["budsim", "recommend", "smol"]) == 2
    assert "exceed the model's 512 tokens" in capsys.readouterr().err


def test_the_front_is_drawn(
    server: type[Server], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.answers[f"/budsim/recommendations/{JOB_ID}"] = (200, _row())
    picture = tmp_path / "front.png"
    command = ["budsim", "explain", JOB_ID, "--plot", "--png", str(picture)]
    assert run(command) == 0
    assert "$ per million output tokens" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_nothing_fits_is_said_with_the_closest(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    shortage = {"gpu": "nvidia-t4-16gb", "term": "weights", "missing_bytes": 1e9, "reason": "1 GB"}
    empty: dict[str, Any] = {
        "feasible": False,
        "choice": None,
        "alternatives": [],
        "shortage": shortage,
    }
    server.answers["/budsim/recommendations"] = (202, _row(result={**RESULT, **empty}))
    assert run(["budsim", "recommend", "smol"]) == 0
    assert "nothing fits\nclosest: 1 GB" in capsys.readouterr().out


def test_several_predictions_are_one_line_each_and_alarms_are_shown(
    server: type[Server], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "configurations.yaml"
    file.write_text("- {gpu: nvidia-l40s-48gb}\n- {gpu: cpu}")
    answer = {"data": [PREDICTION, PREDICTION], "notes": ["predictions of cpu are stale"]}
    server.answers["/budsim/predict"] = (200, answer)
    assert run(["budsim", "predict", "smol", "--file", str(file)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("12.5 [10, 15]") == 2
    assert "note: predictions of cpu are stale" in shown


def test_a_single_prediction_is_a_table_of_its_own(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/budsim/predict"] = (200, {"data": [PREDICTION]})
    command = "budsim predict smol --gpu nvidia-l40s-48gb --tp 2 --users 16 --input-tokens 1024"
    assert run(command.split()) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["TPOT,", "ms", "10", "12.5", "15"] in shown
    assert server.asked[0][1]["configurations"][0]["tensor_parallel_size"] == 2
    assert server.asked[0][1]["workload"]["input"]["mean"] == WORKLOAD["input"]["mean"]  # type: ignore[index]


def test_every_violation_of_a_manual_configuration_is_named(
    server: type[Server], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    body = {"message": "$.deployment.replicas: 0", "type": "x", "code": "invalid_configuration"}
    server.answers["/budsim/validate"] = (422, {"error": body})
    file = tmp_path / "deployment.yaml"
    file.write_text("deployment: {replicas: 0}")
    assert run(["budsim", "validate", str(file), "--model", "smol"]) == 2
    assert "$.deployment.replicas: 0" in capsys.readouterr().err
    assert server.asked[0][1]["deployment"] == "deployment: {replicas: 0}"


def test_prices_are_set(server: type[Server], capsys: pytest.CaptureFixture[str]) -> None:
    answer = {"version": 3, "prices": {"a": 2.5}, "created_by": "ada", "created_at": AT}
    server.answers["/budsim/prices"] = (200, answer)
    assert run(["budsim", "prices", "a=2.5", "b=", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == 3
    assert server.asked[0][1]["prices"] == {"a": 2.5, "b": None}


def test_the_shipped_catalogue_needs_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["budsim", "catalogue", "--offline", "--json"]) == 0
    found = {gpu["id"]: gpu for gpu in json.loads(capsys.readouterr().out)["data"]}
    assert found["nvidia-h100-80gb"]["memory_gb"] == 80
    assert found["nvidia-h100-80gb"]["price_per_hour"] == 2.29


def test_a_configuration_without_gpus_is_asked_for_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert run(["budsim", "recommend", "--config", str(tmp_path)]) == 2
    assert "--gpu ID:COUNT" in capsys.readouterr().err


def test_without_a_server_the_answer_is_computed_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("groups: [{gpu: nvidia-l40s-48gb, gpus_per_node: 4}]")
    command = ["budsim", "recommend", "--config", str(tmp_path), "--cluster", str(cluster)]
    assert run([*command, "--users", "8", "--slo", "tpot=200", "--plot"]) == 0
    shown = capsys.readouterr().out
    for words in ("meets every target", "max_tpot_ms (binds)", "Bottleneck:", "$ per million"):
        assert words in shown, shown
    assert run([*command, "--slo", "tpot=0.001", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["feasible"], found["binding"]) == (False, "max_tpot_ms")


def test_what_if_and_simulation_need_no_server_either(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    local = ["--config", str(tmp_path), "--gpu", "nvidia-l40s-48gb", "--users", "4", "--json"]
    assert run(["budsim", "predict", *local]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["configuration"]["gpu"] == "nvidia-l40s-48gb"
    assert row["prediction"]["fits"] is True
    assert run(["budsim", "simulate", *local, "--max-num-seqs", "8", "--requests", "20"]) == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 20
    file = tmp_path / "deployment.yaml"
    file.write_text("deployment: {resources: {gpu_type: nvidia-l40s-48gb}, replicas: 0}")
    options = ["--config", str(tmp_path), "--gpu", "nvidia-l40s-48gb:2"]
    assert run(["budsim", "validate", str(file), *options]) == 2
    assert "$.deployment.replicas" in capsys.readouterr().err
