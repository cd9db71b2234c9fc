"""The peer's side of the budsim benchmark: aiconfigurator's estimate of an aggregated worker.

Reads JSON rows on stdin, each {model, precision, system, backend, isl, osl, batch_size, tp_size,
attention_dp_size, moe_tp_size, moe_ep_size}; batch_size is per attention rank, as its own. Writes
as many objects on stdout: {ttft_ms, tpot_ms}, or {reason} where it has no estimate.

Settings are those its documentation calls reproducible: measured kernels only (SILICON), the newest
kernels of the engine, formats inferred from the checkpoint, as many prefill tokens per step as the
input has.
"""

import contextlib
import functools
import json
import logging
import sys
from typing import Any

from aiconfigurator.cli.api import cli_estimate
from aiconfigurator.sdk import perf_database

# Checkpoints it knows without a network, by model and precision.
CHECKPOINTS = {
    ("Llama-3.1-70B", "fp8"): "nvidia/Llama-3.1-70B-Instruct-FP8",
    ("Llama-3.1-70B", "fp4"): "meta-llama/Meta-Llama-3.1-70B",
    ("Qwen3-32B", ""): "Qwen/Qwen3-32B",
    ("Qwen3-32B", "fp8"): "Qwen/Qwen3-32B-FP8",
    ("Qwen3-32B", "fp4"): "Qwen/Qwen3-32B",
    ("Qwen3.5-397B-A17B", "bf16"): "Qwen/Qwen3.5-397B-A17B",
    ("Qwen3.5-397B-A17B", "fp8"): "Qwen/Qwen3.5-397B-A17B",
    ("Qwen3.5-397B-A17B", "fp4"): "nvidia/Qwen3.5-397B-A17B-NVFP4",
    ("DeepSeek-R1", "fp8"): "deepseek-ai/DeepSeek-R1",
    ("DeepSeek-R1", "fp4"): "nvidia/DeepSeek-V3.1-NVFP4",
    ("DeepSeek-V3", "fp8"): "deepseek-ai/DeepSeek-V3",
    ("DeepSeek-V3", "fp4"): "nvidia/DeepSeek-V3.1-NVFP4",
    ("MiniMax-M2.5", "fp8"): "MiniMaxAI/MiniMax-M2.5",
    ("MiniMax-M2.5", "fp4"): "nvidia/MiniMax-M2.5-NVFP4",
    ("Kimi-K2.5", "int4"): "moonshotai/Kimi-K2.5",
    ("Kimi-K2.5", "fp4"): "nvidia/Kimi-K2.5-NVFP4",
    ("GLM-5", "fp8"): "zai-org/GLM-5-FP8",
    ("GLM-5", "fp4"): "nvidia/GLM-5-NVFP4",
    ("gpt-oss-120b", "fp8"): "openai/gpt-oss-120b",
    ("gpt-oss-120b", "fp4"): "openai/gpt-oss-120b",
}
# Where only an unquantised checkpoint is known: the formats that quantised ones of its kind carry.
_DENSE_FP4 = {"gemm_quant_mode": "nvfp4", "kvcache_quant_mode": "fp8"}
_BLOCK_FP8 = {"gemm_quant_mode": "fp8_block", "moe_quant_mode": "fp8_block"}
FORMATS = {
    ("Llama-3.1-70B", "fp4"): _DENSE_FP4,
    ("Qwen3-32B", "fp4"): _DENSE_FP4,
    ("Qwen3.5-397B-A17B", "fp8"): _BLOCK_FP8,
}
SIZES = ("isl", "osl", "batch_size", "tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")


def remember() -> None:
    """Every estimate reads a hundred YAML files again, for the same answer: once is enough."""
    for name in ("get_database_view", "get_latest_database_version"):
        setattr(perf_database, name, functools.cache(getattr(perf_database, name)))


def estimate(row: dict[str, Any]) -> dict[str, Any]:
    kind = (row["model"], row["precision"])
    if kind not in CHECKPOINTS:
        return {"reason": "unknown checkpoint"}
    sizes = {name: row[name] for name in SIZES}
    try:
        found = cli_estimate(
            CHECKPOINTS[kind],
            row["system"],
            backend_name=row["backend"],
            **sizes,
            **FORMATS.get(kind, {}),
        )
    except (ValueError, RuntimeError) as error:
        return {"reason": f"{type(error).__name__}: {str(error).split(':')[0]}"}
    return {"ttft_ms": float(found.ttft), "tpot_ms": float(found.tpot)}


def main() -> None:
    logging.disable(logging.CRITICAL)
    remember()
    with contextlib.redirect_stdout(sys.stderr):
        found = [estimate(row) for row in json.load(sys.stdin)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
