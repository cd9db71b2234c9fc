"""Configurations as operating points."""

from dataclasses import replace
from typing import Any

import pytest

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configuration, Configurations
from foundry.engines.budsim.operating import points_of
from foundry.engines.budsim.points import ENGINES, Points
from foundry.engines.budsim.request import Lengths, Workload
from tests.engines.budsim.serving_cases import closed, rows
from tests.fakes.models import LLAMA_8B

CATALOGUE = Catalogue.shipped()


def _point(gpu: str = "nvidia-h100-80gb", **settings: Any) -> Points:
    return points_of(LLAMA_8B, rows(gpu, **settings), closed(8, 1000, 200), CATALOGUE)


def test_columns_by_hand() -> None:
    found = _point(tensor_parallel_size=4, pipeline_parallel_size=2, runtime="tensorrt-llm")
    expected = {
        "memory": 80e9, "bandwidth": 3350e9, "flops": 989e12, "flops16": 989e12, "link": 450e9,
        "nvlink": 1, "native": 1, "tp": 4, "pp": 2, "dp": 1, "ep": 1, "wb": 2, "kb": 2, "batch": 1,
        "input": 1000, "cached": 0, "output": 200, "chunk": 8192, "layers": 32, "hidden": 4096,
        "parameters": 8.03e9 - 0.525e9, "engine": ENGINES.index("tensorrt-llm"), "encoder": 0,
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(found, name)[0] == pytest.approx(value), name


@pytest.mark.parametrize(
    ("gpu", "quantization", "tflops", "native"),
    [
        ("nvidia-h100-80gb", "none", 989, 1),
        ("nvidia-h100-80gb", "fp8", 1978, 1),
        ("nvidia-h100-80gb", "int4", 989, 0),
        ("nvidia-h100-80gb", "fp4", 989, 0),
        ("nvidia-b200-180gb", "fp4", 9000, 1),
        ("nvidia-a100-80gb", "fp8", 312, 0),
        ("nvidia-a100-80gb", "int8", 624, 1),
        ("nvidia-t4-16gb", "none", 65, 1),
        ("nvidia-v100-32gb", "none", 125, 1),
    ],
)
def test_the_arithmetic_runs_where_the_hardware_can(
    gpu: str, quantization: str, tflops: float, native: float
) -> None:
    found = _point(gpu, quantization=quantization)
    assert found.flops[0] == pytest.approx(tflops * 1e12)
    assert found.native[0] == native


def test_a_probe_scales_peaks() -> None:
    gpu = replace(CATALOGUE.gpu("nvidia-l4-24gb"), attained_bandwidth=0.8, attained_flops=0.5)
    found = points_of(LLAMA_8B, rows(gpu.id), closed(1), CATALOGUE.with_gpu(gpu))
    assert found.bandwidth[0] == pytest.approx(240e9)
    assert found.flops[0] == pytest.approx(60.5e12)


def test_a_shared_prefix_is_cached() -> None:
    found = points_of(LLAMA_8B, rows(), closed(1, input=1000, share=0.25), CATALOGUE)
    assert found.cached[0] == 250.0


def test_no_length_is_below_one_token() -> None:
    empty = Workload(Lengths.of(0), Lengths.of(0.5), users=1)
    found = points_of(LLAMA_8B, rows(), empty, CATALOGUE)
    assert (found.input[0], found.output[0]) == (1.0, 1.0)


def test_each_row_has_its_own_accelerator() -> None:
    names = ["nvidia-t4-16gb", "amd-mi300x-192gb", "nvidia-t4-16gb"]
    mixed = Configurations.of([Configuration(name) for name in names])
    found = points_of(LLAMA_8B, mixed, closed(1), CATALOGUE)
    assert found.memory.tolist() == [16e9, 192e9, 16e9]
