"""Engines, formats and accelerators that go together."""

from dataclasses import replace

import pytest

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.request import Quantization, Runtime
from foundry.engines.budsim.search.support import kv_problem, weight_format, weights_problem
from tests.fakes.models import LLAMA_8B

CATALOGUE = Catalogue.shipped()


@pytest.mark.parametrize(
    ("gpu", "runtime", "quantization", "field"),
    [
        ("nvidia-h100-80gb", "vllm", "fp8", None),
        ("nvidia-h100-80gb", "vllm", "fp4", None),
        ("nvidia-a100-80gb", "vllm", "fp8", "quantization"),
        ("nvidia-a100-80gb", "vllm", "int4", None),
        ("nvidia-t4-16gb", "vllm", "none", None),
        ("nvidia-t4-16gb", "tensorrt-llm", "none", "runtime"),
        ("nvidia-v100-32gb", "sglang", "none", "runtime"),
        ("nvidia-l4-24gb", "sglang", "fp8", None),
    ],
)
def test_the_table(gpu: str, runtime: Runtime, quantization: Quantization, field: str) -> None:
    problem = weights_problem(LLAMA_8B, CATALOGUE.gpu(gpu), runtime, quantization)
    assert (problem and problem[0]) == field


def test_other_vendors_run_fewer_engines() -> None:
    other = replace(CATALOGUE.gpu("nvidia-h100-80gb"), vendor="qualcomm")
    assert weights_problem(LLAMA_8B, other, "tensorrt-llm", "none") == (
        "runtime",
        "tensorrt-llm does not run on qualcomm accelerators; choose another",
    )
    assert weights_problem(LLAMA_8B, other, "vllm", "none") is None
    latent = weights_problem(replace(LLAMA_8B, latent=True), other, "vllm", "none")
    assert latent is not None and "latent attention" in latent[1]


def test_recurrent_layers_need_an_engine_that_knows_them() -> None:
    gpu, hybrid = CATALOGUE.gpu("nvidia-h100-80gb"), replace(LLAMA_8B, state_bytes=1e6)
    problem = weights_problem(hybrid, gpu, "tensorrt-llm", "none")
    assert problem is not None and problem[0] == "runtime"
    assert weights_problem(hybrid, gpu, "vllm", "none") is None


def test_a_quantised_checkpoint_keeps_its_format() -> None:
    gpu, spec = CATALOGUE.gpu("nvidia-h100-80gb"), replace(LLAMA_8B, weight_format="fp8")
    assert weights_problem(spec, gpu, "vllm", "none") is None
    assert weights_problem(spec, gpu, "vllm", "fp8") is None
    assert weights_problem(spec, gpu, "vllm", "int4") == (
        "quantization",
        "the checkpoint is fp8 already; use none",
    )
    ampere = weights_problem(spec, CATALOGUE.gpu("nvidia-a100-80gb"), "vllm", "none")
    assert ampere is not None and "no fp8 units" in ampere[1]
    assert weight_format(spec, "none") == "fp8"


def test_an_fp8_cache_needs_fp8_units() -> None:
    assert kv_problem(CATALOGUE.gpu("nvidia-h100-80gb"), "fp8") is None
    assert kv_problem(CATALOGUE.gpu("nvidia-a100-80gb"), "auto") is None
    assert "use auto" in (kv_problem(CATALOGUE.gpu("nvidia-a100-80gb"), "fp8") or "")
