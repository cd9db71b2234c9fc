"""`make bench NAME=gpu`: bfloat16 fine-tuning on one accelerator, against transformers with PEFT.

A random-weight Llama of 1.24 billion parameters on rows of 4,096 tokens: tokens per second, the
share of the card's own matrix rate, peak memory, full and with LoRA; the same with transformers'
model, torch's AdamW and PEFT; and the memory that ten load-train-release rounds leave behind.

Each part is a process of its own, bounded in time, so that one that fails costs no other. It needs
torch 2.11 or newer, numpy, safetensors, tokenizers, jinja2, pydantic and this checkout: no Ray,
vLLM or network. The peer runs where transformers and peft are installed. Without an accelerator it
says so and measures nothing; `--rehearse` runs the same parts on a CPU with a tiny model, to find
faults before a card is at hand, and its numbers mean nothing.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.bench.goals import Goal, list_missed
from tests.bench.gpu_parts import CARD, METHODS, REHEARSAL, Scale

ROOT = Path(__file__).parents[2]
# Seconds of a part: what it takes on an H200, three times over.
LIMITS = {"gemm": 60.0, "slope": 90.0, "foundry": 90.0, "peer": 90.0}
# Dense bfloat16 without sparsity, TFLOP/s, by the vendors' datasheets.
DATASHEET_TFLOPS = {"H100": 989.4, "H200": 989.4, "A100": 312.0, "L40S": 362.1, "MI300X": 1307.4}
GOALS = {
    "mfu_of_gemm": Goal(at_least=0.50),
    "lora_over_full": Goal(at_least=1.2),
    "tokens_per_s_ratio_gpu_full": Goal(at_least=1.3),
    "tokens_per_s_ratio_gpu_lora": Goal(at_least=1.3),
    "memory_ratio_gpu_full": Goal(at_most=0.7),
    "memory_ratio_gpu_lora": Goal(at_most=0.7),
    "slope_mib_per_round_of_two_layers": Goal(at_most=1.0),
}
PARTS = (
    "gemm",
    *(f"{side}-{method}" for method in METHODS for side in ("foundry", "peer")),
    "slope",
)


def run_part(part: str, folder: Path, rehearse: bool) -> dict[str, Any]:
    """One part's result; its `error`, if it has none."""
    side = part.split("-")[0]
    module = "tests.bench.peers.transformers_gpu" if side == "peer" else "tests.bench.gpu_parts"
    result = folder / f"{part}.json"
    command: list[str | Path] = [sys.executable, "-m", module, part, result]
    command += ["--rehearse"] if rehearse else []
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=dict(os.environ, HF_HUB_OFFLINE="1"),
            timeout=LIMITS[side],
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took over {LIMITS[side]:.0f} s"}
    finally:
        print(f"{part}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    if done.returncode:
        return {"error": done.stderr.strip()[-1500:]}
    return dict(json.loads(result.read_text()))


def count_parameters(scale: Scale) -> int:
    """Of the matrices: with tied embeddings the head's are the embedding's."""
    kept = scale.hidden_size // scale.heads * scale.key_heads
    attention = 2 * scale.hidden_size * (scale.hidden_size + kept)
    layer = attention + 3 * scale.hidden_size * scale.intermediate_size
    return scale.layers * layer + scale.vocab_size * scale.hidden_size


def summarise(scale: Scale, results: Mapping[str, Mapping[str, Any]], card: str) -> dict[str, Any]:
    """The metrics, which goals they miss, and what was not measured.

    The peer is compared at one batch that both sides can hold, and each side at its best.
    """
    metrics: dict[str, Any] = {"card": card}
    at = str(scale.memory_rows)
    for method in METHODS:
        ours, theirs = results[f"foundry-{method}"], results[f"peer-{method}"]
        if "error" in ours:
            continue
        metrics |= {
            f"tokens_per_s_{method}": round(ours["tokens_per_s"]),
            f"mixed_over_equal_{method}": round(ours["mixed"] / ours["speeds"][at], 3),
        }
        if peak := ours["peaks"][at]:
            metrics[f"peak_gib_{method}"] = round(peak / 2**30, 2)
        if "error" not in theirs:
            metrics |= compare(method, ours, theirs, at)
    full, lora = results["foundry-full"], results["foundry-lora"]
    if "error" not in full:
        metrics |= model_flops_utilisation(scale, full, results["gemm"].get("flops"), card)
        if "error" not in lora:
            metrics["lora_over_full"] = round(lora["tokens_per_s"] / full["tokens_per_s"], 3)
    if "slope" in results["slope"]:
        metrics["slope_mib_per_round_of_two_layers"] = round(results["slope"]["slope"] / 2**20, 3)
    metrics["missed"] = list_missed(metrics, GOALS)
    metrics["not_measured"] = {
        part: result["error"][-200:] for part, result in results.items() if "error" in result
    }
    return metrics


def compare(
    method: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], at: str
) -> dict[str, float]:
    """Ours by the peer's, of `at` rows a step and of each side's fastest batch."""
    found = {
        f"tokens_per_s_ratio_gpu_{method}": ours["speeds"][at] / theirs["speeds"][at],
        f"best_tokens_per_s_ratio_gpu_{method}": ours["tokens_per_s"] / theirs["tokens_per_s"],
    }
    if ours["peaks"][at] and theirs["peaks"][at]:
        found[f"memory_ratio_gpu_{method}"] = ours["peaks"][at] / theirs["peaks"][at]
    return {name: round(value, 3) for name, value in found.items()}


def model_flops_utilisation(
    scale: Scale, full: Mapping[str, Any], gemm: float | None, card: str
) -> dict[str, float]:
    """MFU against the card's measured rate and its datasheet's.

    It counts 6 FLOP per parameter and token (arXiv:2204.02311, appendix B), not attention's.
    """
    datasheet = next((t * 1e12 for name, t in DATASHEET_TFLOPS.items() if name in card), None)
    achieved = full["tokens_per_s"] * 6 * count_parameters(scale)
    return {
        f"mfu_of_{name}": round(achieved / rate, 3)
        for name, rate in {"gemm": gemm, "datasheet": datasheet}.items()
        if rate
    }


def find_card() -> str | None:
    """The accelerator's name; None without one."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def find_commit() -> str | None:
    """What is checked out, with `-dirty` if it was changed; None outside of git."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return done.stdout.strip() or None


def find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU, to find faults")
    parser.add_argument("--details", type=Path, help="write every part's own result here")
    options = parser.parse_args()
    card = "a rehearsal on a CPU" if options.rehearse else find_card()
    if card is None:
        print(json.dumps({"bench": "gpu", "metrics": {"skipped": "no accelerator here"}}))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        results: dict[str, dict[str, Any]] = {}
        for part in PARTS:
            results[part] = run_part(part, Path(folder), options.rehearse)
            print(part, json.dumps(results[part]), file=sys.stderr, flush=True)
            if options.details:
                document = {"card": card, "commit": find_commit(), "parts": results}
                document |= {name: find_version(name) for name in ("torch", "transformers", "peft")}
                options.details.write_text(json.dumps(document, indent=1) + "\n")
    metrics = summarise(REHEARSAL if options.rehearse else CARD, results, card)
    print(json.dumps({"bench": "gpu", "metrics": metrics}))
    return 1 if metrics["missed"] or metrics["not_measured"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
