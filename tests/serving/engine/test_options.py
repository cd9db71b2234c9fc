"""From an endpoint's configuration to vLLM's arguments."""

import pytest

from foundry.config import ServingSettings
from foundry.errors import InvalidConfiguration
from foundry.execution.workers.live_cluster import map_accelerators
from foundry.serving.engine.hardware import Hardware, Node
from foundry.serving.engine.options import EngineOptions, serving_of
from foundry.serving.engine.runtime import VllmRules, fits_beside
from foundry.serving.engine.shape import ModelShape
from tests.serving.recommendations.questions import ENDPOINT_CONFIG

GPU = {
    **ENDPOINT_CONFIG,
    "tensor_parallel_size": 4,
    "pipeline_parallel_size": 2,
    "quantization": "fp8",
    "kv_cache_dtype": "fp8",
    "resources": {"gpu_type": "nvidia-l40s-48gb", "gpu_count": 8},
}

CPU_NODE = Hardware((Node(2, 8),), (Node(2, 8),))
GPU_NODE = Hardware((Node(8, 64, 4),), (), {"nvidia-l40s-48gb": "L40S"})


def test_a_recommended_configuration_reaches_the_engine() -> None:
    options = EngineOptions.of(GPU)
    assert options.faults() == []
    assert (options.gpus, options.replicas) == (8, 2)
    assert options.arguments(on_cpu=False) == {
        "max_num_batched_tokens": 2048,
        "tensor_parallel_size": 4,
        "pipeline_parallel_size": 2,
        "gpu_memory_utilization": 0.9,
        "quantization": "fp8",
        "kv_cache_dtype": "fp8",
    }


def test_a_cpu_takes_of_it_what_applies() -> None:
    options = EngineOptions.of({**ENDPOINT_CONFIG, "resources": {"gpu_type": "cpu"}})
    options.check(CPU_NODE)
    assert options.accelerator({}) is None
    assert options.arguments(on_cpu=True) == {"max_num_batched_tokens": 2048}
    serving = serving_of(ServingSettings(max_loras=7), ENDPOINT_CONFIG)
    assert (serving.max_model_len, serving.max_num_seqs, serving.max_loras) == (512, 64, 7)


def test_an_empty_configuration_changes_nothing() -> None:
    assert EngineOptions.of({}) == EngineOptions()
    assert EngineOptions().arguments(on_cpu=False) == {}
    assert serving_of(ServingSettings(), {}) == ServingSettings()


@pytest.mark.parametrize(
    ("change", "hardware", "says"),
    [
        (
            {"tensor_parallel_size": 2},
            CPU_NODE,
            "tensor_parallel_size 2 and pipeline_parallel_size 1 must both be 1",
        ),
        ({"pipeline_parallel_size": 2}, CPU_NODE, "must both be 1"),
        ({"quantization": "fp8"}, CPU_NODE, "keep the checkpoint's formats"),
        ({"kv_cache_dtype": "fp8"}, CPU_NODE, "keep the checkpoint's formats"),
        ({"resources": {"gpu_type": "nvidia-l4-24gb"}}, CPU_NODE, "no nvidia-l4-24gb: add such"),
        ({"resources": {"cpu_cores": 3}}, CPU_NODE, "1 replicas of 3 CPU cores.* has 2 cores"),
        ({"resources": {"memory_gb": 9}}, CPU_NODE, "0.5 CPU cores, 9 GB .* 8.0 GB"),
        ({"replicas": 3, "resources": {"cpu_cores": 1}}, CPU_NODE, "3 replicas of 1 CPU cores"),
        ({"runtime": "sglang"}, GPU_NODE, "run vllm, not sglang"),
        ({"quantization": "int4"}, GPU_NODE, "import a checkpoint in int4"),
        ({"tensor_parallel_size": 8}, GPU_NODE, "8 accelerators each do not fit"),
        ({"resources": {"gpu_count": 2}}, GPU_NODE, "gpu_count 2 is not tensor_parallel_size 1"),
        ({"resources": {"gpu_type": "nvidia-h100-80gb"}}, GPU_NODE, "but nvidia-l40s-48gb:"),
    ],
)
def test_what_an_engine_cannot_do_is_said(
    change: dict[str, object], hardware: Hardware, says: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=says):
        EngineOptions.of(change).check(hardware)


def test_every_reason_is_said_at_once() -> None:
    wrong = {
        "runtime": "sglang",
        "quantization": "int4",
        "tensor_parallel_size": 2,
        "max_model_len": 4096,
    }
    report = VllmRules().supports(wrong, CPU_NODE, model=ModelShape(2048))
    assert [each.split(":")[0] for each in report.reasons] == [
        "engines here run vllm, not sglang",
        "no engine here quantises to int4 while it loads",
        "max_model_len 4096 is more than the model's context of 2048",
    ]
    assert len(report.missing) == 1
    # Nothing is known of the cluster: only what holds everywhere is said.
    assert VllmRules().supports(wrong, None).missing == ()
    assert VllmRules().supports({}, CPU_NODE, model=ModelShape(64)).ok


def test_what_a_replica_reserves() -> None:
    given = EngineOptions.of({"resources": {"cpu_cores": 1.5, "memory_gb": 4}})
    assert given.need(on_cpu=True) == Node(1.5, 4.0, 0.0)
    assert EngineOptions().need(on_cpu=True) == Node(0.5, 0.0, 0.0)
    two = EngineOptions.of({"tensor_parallel_size": 2})
    assert two.need(on_cpu=False) == Node(1.0, 0.0, 2.0)


@pytest.mark.parametrize(
    ("config", "nodes", "free", "beside"),
    [
        # It takes every core of a CPU node, whatever is free there.
        ({}, (Node(8, 32),), (Node(8, 32),), False),
        ({"resources": {"cpu_cores": 2}}, (Node(4, 8),), (Node(2, 4),), True),
        ({"resources": {"cpu_cores": 2}}, (Node(4, 8),), (Node(1.9, 4),), False),
        ({}, (Node(8, 32, 2),), (Node(6, 32, 1),), True),
        ({}, (Node(8, 32, 2),), (Node(6, 32, 0),), False),
        ({"replicas": 2}, (Node(8, 32, 2),) * 2, (Node(8, 32, 1),) * 2, True),
        # Half an accelerator on each node is none.
        ({}, (Node(8, 32, 1),) * 2, (Node(8, 32, 0.5),) * 2, False),
    ],
)
def test_an_update_surges_only_where_both_engines_have_room(
    config: dict[str, object], nodes: tuple[Node, ...], free: tuple[Node, ...], beside: bool
) -> None:
    assert fits_beside(EngineOptions.of(config), Hardware(nodes, free)) is beside


def test_an_engine_runs_on_the_accelerator_that_was_recommended() -> None:
    options = EngineOptions.of(ENDPOINT_CONFIG)
    here = map_accelerators({"CPU": 8.0, "GPU": 4.0, "accelerator_type:L40S": 1.0})
    assert options.accelerator(here) == "L40S"
    assert EngineOptions().accelerator(here) is None
    elsewhere = map_accelerators({"accelerator_type:H100": 1.0, "accelerator_type:X9": 1.0})
    assert elsewhere == {"nvidia-h100-80gb": "H100"}
