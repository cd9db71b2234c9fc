"""What the flags of `foundry budsim` mean."""

import json
from pathlib import Path

import pytest

from foundry.cli import budsim_inputs as inputs
from foundry.errors import InvalidRequest


def test_a_workload_is_closed_or_open() -> None:
    assert inputs.workload(8, None, "512", "128/100/300") == {
        "users": 8,
        "input": {"mean": 512},
        "output": {"mean": 128, "p50": 100, "p95": 300},
    }
    assert inputs.workload(None, 2.5, "1", "1")["rate"] == 2.5
    assert inputs.workload(None, None, "1", "1")["users"] == 1


def test_targets_have_short_names() -> None:
    assert inputs.targets("ttft=500,tpot=50, cost=20", "p99") == {
        "percentile": "p99",
        "max_ttft_ms": 500,
        "max_tpot_ms": 50,
        "max_cost_per_hour": 20,
    }
    assert inputs.targets(None, "p95") == {"percentile": "p95"}


def test_gpus_alone_are_a_cluster() -> None:
    assert inputs.cluster(None, ["nvidia-l4-24gb:2", "nvidia-h100-80gb", "nvidia-a10-24gb:20"]) == {
        "groups": [
            {"gpu": "nvidia-l4-24gb", "gpus_per_node": 2},
            {"gpu": "nvidia-h100-80gb", "gpus_per_node": 8},
            {"gpu": "nvidia-a10-24gb", "gpus_per_node": 8, "nodes": 3, "free_gpus": 20},
        ]
    }
    assert inputs.cluster(None, None) is None


def test_gpus_cut_a_cluster_down(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("groups:\n- {gpu: a, gpus_per_node: 8, nodes: 2}\n- {gpu: b, gpus_per_node: 1}")
    assert inputs.cluster(file, ["b"]) == {"groups": [{"gpu": "b", "gpus_per_node": 1}]}
    with pytest.raises(InvalidRequest, match="has no c: it has a, b"):
        inputs.cluster(file, ["c"])
    file.write_text("groups:\n- {gpu: nvidia-l4-24gb, gpus_per_node: 2}\n- {gpu: cpu}")
    found = inputs.cluster(file, ["L4"])
    assert found == {"groups": [{"gpu": "nvidia-l4-24gb", "gpus_per_node": 2}]}


def test_a_models_directory_brings_its_size(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    (tmp_path / "a.safetensors").write_bytes(b"x" * 70)
    (tmp_path / "b.safetensors").write_bytes(b"x" * 30)
    asked = inputs.asked_model(None, tmp_path)
    assert (asked.local, asked.fields) == (
        True,
        {"config": {"hidden_size": 8}, "checkpoint_bytes": 100},
    )
    assert inputs.asked_model("smol", None).fields == {"model": "smol"}


def test_prices_are_set_and_undone() -> None:
    assert inputs.prices(["a=2.5", "b="]) == {"a": 2.5, "b": None}


def test_a_list_of_configurations_is_read(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("- {gpu: a, replicas: 2}\n- {gpu: b}\n")
    assert inputs.configurations(file) == [{"gpu": "a", "replicas": 2}, {"gpu": "b"}]


def test_a_trace_is_read_as_rows(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,10,5\n1.5,20,6\n")
    assert inputs.trace(file)[1] == {"arrival_s": 1.5, "input_tokens": 20, "output_tokens": 6}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: inputs.workload(1, 2, "1", "1"), "not both"),
        (lambda: inputs.workload(1, None, "1/2", "1"), "MEAN or MEAN/P50/P95"),
        (lambda: inputs.workload(1, None, "many", "1"), "not a number"),
        (lambda: inputs.targets("speed=3", "p95"), "--slo 'speed=3'"),
        (lambda: inputs.targets("ttft", "p95"), "write ttft="),
        (lambda: inputs.cluster(None, ["a:x"]), "ID or ID:COUNT"),
        (lambda: inputs.asked_model(None, None), "one only"),
        (lambda: inputs.asked_model("a", Path("b")), "one only"),
        (lambda: inputs.asked_model(None, Path("/nonexistent.json")), "cannot be read"),
        (lambda: inputs.prices(["a"]), "GPU=PRICE"),
    ],
)
def test_a_mistake_is_named(call, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidRequest, match=says):
        call()
