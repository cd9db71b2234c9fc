"""From an endpoint's configuration to vLLM's arguments."""

import pytest

from foundry.config import ServingSettings
from foundry.errors import UnsupportedFeature
from foundry.execution.workers.search import accelerators
from foundry.serving.engine.options import EngineOptions, serving_of
from tests.serving.recommendations.questions import ENDPOINT_CONFIG

GPU = {
    **ENDPOINT_CONFIG,
    "tensor_parallel_size": 4,
    "pipeline_parallel_size": 2,
    "quantization": "fp8",
    "kv_cache_dtype": "fp8",
}


def test_a_recommended_configuration_reaches_the_engine() -> None:
    options = EngineOptions.of(GPU)
    options.check(on_cpu=False)
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
    options.check(on_cpu=True)
    assert options.accelerator({}) is None
    assert options.arguments(on_cpu=True) == {"max_num_batched_tokens": 2048}
    serving = serving_of(ServingSettings(max_loras=7), ENDPOINT_CONFIG)
    assert (serving.max_model_len, serving.max_num_seqs, serving.max_loras) == (512, 64, 7)


def test_an_empty_configuration_changes_nothing() -> None:
    assert EngineOptions.of({}) == EngineOptions()
    assert EngineOptions().arguments(on_cpu=False) == {}
    assert serving_of(ServingSettings(), {}) == ServingSettings()


@pytest.mark.parametrize(
    ("change", "on_cpu", "says"),
    [
        ({"tensor_parallel_size": 2}, True, "tensor_parallel_size 2 and pipeline_parallel_size 1"),
        ({"pipeline_parallel_size": 2}, True, "must both be 1"),
        ({"quantization": "fp8"}, True, "keep the checkpoint's formats"),
        ({"kv_cache_dtype": "fp8"}, True, "keep the checkpoint's formats"),
        ({"resources": {"gpu_type": "nvidia-l4-24gb"}}, True, "no nvidia-l4-24gb: add such a node"),
        ({"runtime": "sglang"}, False, "run vllm, not sglang"),
        ({"quantization": "int4"}, False, "import a checkpoint in int4"),
    ],
)
def test_what_an_engine_cannot_do_is_said(
    change: dict[str, object], on_cpu: bool, says: str
) -> None:
    with pytest.raises(UnsupportedFeature, match=says):
        EngineOptions.of(change).check(on_cpu=on_cpu)


def test_an_engine_runs_on_the_accelerator_that_was_recommended() -> None:
    options = EngineOptions.of(ENDPOINT_CONFIG)
    here = accelerators({"CPU": 8.0, "GPU": 4.0, "accelerator_type:L40S": 1.0})
    assert options.accelerator(here) == "L40S"
    assert EngineOptions().accelerator(here) is None
    elsewhere = accelerators({"accelerator_type:H100": 1.0, "accelerator_type:X9": 1.0})
    assert elsewhere == {"nvidia-h100-80gb": "H100"}
    with pytest.raises(UnsupportedFeature, match="no nvidia-l40s-48gb, but nvidia-h100-80gb"):
        options.accelerator(elsewhere)
