"""What the GPU bench says of the parts that it was given."""

from typing import Any

from tests.bench.gpu import count_parameters, summarise
from tests.bench.gpu_parts import CARD


def _side(speeds: dict[str, float], peak: int) -> dict[str, Any]:
    return {
        "rows": 8,
        "tokens_per_s": max(speeds.values()),
        "speeds": speeds,
        "peaks": dict.fromkeys(speeds, peak),
        "mixed": speeds["2"],
    }


def test_parameters_are_those_of_the_model() -> None:
    assert count_parameters(CARD) == 16 * 60_817_408 + 128_256 * 2048


def test_sides_are_compared_at_one_batch_and_misses_are_named() -> None:
    results: dict[str, Any] = {
        "gemm": {"flops": 700e12},
        "foundry-full": _side({"2": 46_000.0, "8": 54_000.0}, 27 * 2**30),
        "peer-full": _side({"2": 40_000.0, "4": 44_000.0}, 45 * 2**30),
        "foundry-lora": _side({"2": 65_000.0, "8": 69_000.0}, 13 * 2**30),
        "peer-lora": {"error": "No module named 'peft'"},
        "slope": {"slope": 0.0},
    }
    metrics = summarise(CARD, results, "NVIDIA H200")
    assert metrics["tokens_per_s_ratio_gpu_full"] == 1.15
    assert metrics["best_tokens_per_s_ratio_gpu_full"] == 1.227
    assert metrics["memory_ratio_gpu_full"] == 0.6
    assert metrics["mfu_of_gemm"] == 0.572
    assert metrics["mfu_of_datasheet"] == 0.405
    assert metrics["lora_over_full"] == 1.278
    assert metrics["missed"] == ["tokens_per_s_ratio_gpu_full"]
    assert metrics["not_measured"] == {"peer-lora": "No module named 'peft'"}


def test_a_rehearsal_makes_no_memory_up() -> None:
    side = _side({"2": 10.0}, 0)
    results: dict[str, Any] = {
        f"{who}-{method}": side for who in ("foundry", "peer") for method in ("full", "lora")
    }
    metrics = summarise(CARD, results | {"gemm": {"flops": 1.0}, "slope": {}}, "a rehearsal")
    assert not [name for name in metrics if "memory" in name or "gib" in name or "slope" in name]
