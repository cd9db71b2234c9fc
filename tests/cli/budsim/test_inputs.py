"""What the flags of `foundry budsim` mean."""

import io
import json
import sys
from pathlib import Path

import pytest

from foundry.cli.budsim import inputs
from foundry.errors import Conflict, InvalidRequest, NotFound
from tests.serving.recommendations.questions import LLAMA


def test_a_workload_is_closed_or_open() -> None:
    assert inputs.build_workload(8, None, "512", "128/100/300") == {
        "users": 8,
        "input": {"mean": 512},
        "output": {"mean": 128, "p50": 100, "p95": 300},
    }
    assert inputs.build_workload(None, 2.5, "1", "1")["rate"] == 2.5
    assert inputs.build_workload(None, None, "1", "1")["users"] == 1


def test_targets_have_short_names() -> None:
    assert inputs.build_targets(["ttft=500,tpot=50, cost=20"], "p99") == {
        "percentile": "p99",
        "max_ttft_ms": 500,
        "max_tpot_ms": 50,
        "max_cost_per_hour": 20,
    }
    assert inputs.build_targets(None, "p95") == {"percentile": "p95"}


def test_gpus_alone_are_a_cluster() -> None:
    assert inputs.build_cluster(
        None, ["nvidia-l4-24gb:2", "nvidia-h100-80gb", "nvidia-a10-24gb:20"]
    ) == {
        "groups": [
            {"gpu": "nvidia-l4-24gb", "gpus_per_node": 2},
            {"gpu": "nvidia-h100-80gb", "gpus_per_node": 8},
            {"gpu": "nvidia-a10-24gb", "gpus_per_node": 8, "nodes": 3, "free_gpus": 20},
        ]
    }
    assert inputs.build_cluster(None, None) is None


def test_gpus_cut_a_cluster_down(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("groups:\n- {gpu: a, gpus_per_node: 8, nodes: 2}\n- {gpu: b, gpus_per_node: 1}")
    assert inputs.build_cluster(file, ["b"]) == {"groups": [{"gpu": "b", "gpus_per_node": 1}]}
    with pytest.raises(InvalidRequest, match="has no c: it has a, b"):
        inputs.build_cluster(file, ["b", "c"])
    with pytest.raises(Conflict, match="count of --gpu b:1 would be ignored"):
        inputs.build_cluster(file, ["b:1"])
    file.write_text("- {gpu: nvidia-l4-24gb, gpus_per_node: 2}\n- {gpu: cpu, gpus_per_node: 1}")
    found = inputs.build_cluster(file, ["L4"])
    assert found == {"groups": [{"gpu": "nvidia-l4-24gb", "gpus_per_node": 2}]}


def test_a_models_directory_brings_its_size(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "a.safetensors").write_bytes(b"x" * 70)
    (tmp_path / "b.safetensors").write_bytes(b"x" * 30)
    asked = inputs.read_model(None, tmp_path)
    assert (asked.local, asked.fields) == (True, {"config": LLAMA, "checkpoint_bytes": 100})
    assert inputs.read_model("smol", None).fields == {"model": "smol"}


def test_prices_are_set_and_undone() -> None:
    assert inputs.parse_prices(["a=2.5", "b="]) == {"a": 2.5, "b": None}


def test_a_list_of_configurations_is_read(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("- {gpu: a, replicas: 2}\n- {gpu: b}\n")
    assert inputs.read_configurations(file) == [{"gpu": "a", "replicas": 2}, {"gpu": "b"}]


def test_a_trace_is_read_as_rows(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,10,5\n1.5,20,6\n")
    assert inputs.read_trace_rows(file)[1] == {
        "arrival_s": 1.5,
        "input_tokens": 20,
        "output_tokens": 6,
    }


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: inputs.build_workload(1, 2, "1", "1"), Conflict, "give one of them"),
        (
            lambda: inputs.build_workload(1, None, "1/2", "1"),
            InvalidRequest,
            "MEAN or MEAN/P50/P95",
        ),
        (lambda: inputs.build_workload(1, None, "many", "1"), InvalidRequest, "not a number"),
        (lambda: inputs.build_targets(["speed=3"], "p95"), InvalidRequest, "--slo 'speed=3'"),
        (lambda: inputs.build_targets(["ttft"], "p95"), InvalidRequest, "write ttft="),
        (lambda: inputs.build_targets(["ttft=1", "ttft=2"], "p95"), Conflict, "twice"),
        (lambda: inputs.build_targets(["tpot=1"], "p99", True), Conflict, "would be ignored"),
        (lambda: inputs.build_cluster(None, ["a:x"]), InvalidRequest, "ID or ID:COUNT"),
        (lambda: inputs.read_model(None, None), InvalidRequest, "which model"),
        (lambda: inputs.read_model("a", Path("b")), Conflict, "give one of them"),
        (lambda: inputs.read_model(None, Path("/none.json")), NotFound, "there is no file /none"),
        (lambda: inputs.read_trace_rows(Path("/none.csv")), NotFound, "there is no file /none"),
        (lambda: inputs.parse_prices(["a"]), InvalidRequest, "GPU=PRICE"),
        (lambda: inputs.parse_prices(["a=1", "a=2"]), Conflict, "a is named twice"),
    ],
)
def test_a_mistake_is_named(call, error, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=says):
        call()


def test_a_deployment_is_taken_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("deployment: {replicas: 2}\n"))
    assert inputs.read_deployment(Path("-")) == "deployment: {replicas: 2}\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds nothing: write a list"),
        ("gpu: a", "holds a mapping: write a list"),
        ("- {gpu: a, replica: 2}", "configuration 1: replica is not a known field"),
        ("- {gpu: a}\n- 5", "configuration 2: a single value, not a mapping"),
        ("- {gpu: a}\n- {replicas: 2}", "configuration 2: gpu is required"),
        ("- {gpu: a, replicas: [2]}", "configuration 1: replicas must be a whole number"),
        ("- {gpu: a\n- {", "is not YAML: see line 2, column 3"),
    ],
)
def test_a_file_of_configurations_names_the_entry_and_the_field(
    tmp_path: Path, content: str, says: str
) -> None:
    file = tmp_path / "many.yaml"
    file.write_text(content)
    with pytest.raises(InvalidRequest, match=says) as error:
        inputs.read_configurations(file)
    assert str(file) in error.value.message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("groups:", "has no groups: write"),
        ("groups: [{gpu: a, gpu_per_node: 2}]", "group 1: gpus_per_node is required"),
        ("groups: [{gpu: a, gpus_per_node: 2}]\nnodes: 3", "nodes is not a known field"),
    ],
)
def test_a_cluster_file_names_the_group_and_the_field(
    tmp_path: Path, content: str, says: str
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(content)
    with pytest.raises(InvalidRequest, match=says):
        inputs.build_cluster(file, None)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": 1', "is not JSON: see line 1, column 8"),
        (b"[1]", "is no JSON object"),
        (b"{}", "model.json lacks `num_hidden_layers`"),
        (b"\xff\xfe", "is no text: save it as UTF-8"),
        (b'{"model_type": "llama", "is_encoder_decoder": true}', "model.json: this model has an"),
    ],
)
def test_an_odd_configuration_names_its_file(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "model.json"
    file.write_bytes(content)
    with pytest.raises(InvalidRequest, match=says):
        inputs.read_model(None, file)
