"""`make bench NAME=train`: Foundry's SFT against TRL's SFTTrainer with PEFT, on the same host.

Same model, rows, masks, batches, initial adapter, schedule and precision; each run is a process of
its own, the two sides take turns, medians are reported. Tokens are the rows' own: padding does not
count. Neither side recomputes activations. The losses must agree before speed means anything.

`flops_share_of_gemm` is the model's FLOP per second (see `train_models.Cost`) over the rate of a
large matrix product of that type in the same process with the same threads.
"""

import json
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foundry.config import load_settings
from foundry.engines.training.config import Lora, SftConfig
from tests.bench.goals import Goal, list_missed
from tests.bench.machine import list_cpu_flags
from tests.bench.train_models import DEMO, SHAPES, find_model
from tests.bench.train_sides import Outcome, list_sides, loss_gap, measure, write_spec

ROUNDS = 3
STEPS = 6
CONFIG = SftConfig(
    method=Lora(rank=16, alpha=32),
    max_steps=STEPS,
    batch_size=8,
    micro_batch_size=8,
    max_seq_len=512,
    lr=2e-4,
    warmup_ratio=0.0,
    checkpoint_every=10_000,
)
_AGAINST_TRL = {
    "tokens_per_s_ratio": Goal(at_least=3.0),
    "peak_memory_ratio": Goal(at_most=0.35),
}
GOALS = {
    # The losses must agree before speed means anything.
    "max_loss_gap": Goal(at_most=1e-3),
    "flops_share_of_gemm_float32": Goal(at_least=0.75),
    # That of processors with AMX; without it a product is no more than twice float32's.
    "flops_share_of_gemm_bfloat16": Goal(at_least=0.30),
    **_AGAINST_TRL,
    **{f"{shape}_{name}": goal for shape in SHAPES for name, goal in _AGAINST_TRL.items()},
}


def rows() -> list[dict[str, Any]]:
    """Support conversations of uneven length: 40 to 400 tokens, like ordinary chat data."""
    draw = random.Random(0)
    things = ["invoice", "parcel", "password", "refund", "upgrade", "address", "receipt", "login"]
    result = []
    for number in range(STEPS * CONFIG.batch_size):
        thing = things[number % len(things)]
        detail = " ".join(
            f"On day {draw.randint(1, 30)} the {draw.choice(things)} was {draw.choice(things)} "
            f"number {draw.randint(100, 999)}."
            for _ in range(int(draw.lognormvariate(1.3, 0.8)) % 16)
        )
        answer = json.dumps({"topic": thing, "ticket": number, "urgent": number % 3 == 0})
        result.append(
            {
                "messages": [
                    {"role": "user", "content": f"Please help with my {thing}. {detail}"},
                    {"role": "assistant", "content": answer},
                ]
            }
        )
    return result


def compare(cache: Path, spec: Path, rounds: int, name: str) -> tuple[list[Outcome], list[Outcome]]:
    """Both sides in turns."""
    own, peer = list_sides(cache)
    ours: list[Outcome] = []
    theirs: list[Outcome] = []
    for number in range(rounds):
        ours.append(measure(own, spec))
        theirs.append(measure(peer, spec))
        print(
            f"{name}, round {number + 1}: foundry {ours[-1].tokens_per_s:.0f} tokens/s "
            f"{ours[-1].peak_bytes / 2**20:.0f} MiB, trl {theirs[-1].tokens_per_s:.0f} tokens/s "
            f"{theirs[-1].peak_bytes / 2**20:.0f} MiB, "
            f"loss gap {loss_gap(ours[-1], theirs[-1]):.1e}",
            file=sys.stderr,
            flush=True,
        )
    return ours, theirs


def summarise(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> dict[str, float]:
    """Medians of both sides, and their ratios."""
    speeds, peaks = (
        [statistics.median(getattr(o, key) for o in side) for side in (ours, theirs)]
        for key in ("tokens_per_s", "peak_bytes")
    )
    return {
        "tokens_per_s_ratio": round(speeds[0] / speeds[1], 3),
        "peak_memory_ratio": round(peaks[0] / peaks[1], 3),
        "max_loss_gap": float(f"{max(map(loss_gap, ours, theirs)):.3g}"),
        "flops_share_of_gemm_float32": round(statistics.median(o.flops_share for o in ours), 3),
        "foundry_tokens_per_s": round(speeds[0], 1),
        "trl_tokens_per_s": round(speeds[1], 1),
        "foundry_peak_mib": round(peaks[0] / 2**20),
        "trl_peak_mib": round(peaks[1] / 2**20),
    }


def run_all(cache: Path, scratch: Path) -> dict[str, Any]:
    """The demo's model on three rounds, packed and in bfloat16 once; then the other shapes."""
    spec = write_spec(find_model(cache, DEMO), scratch / DEMO, CONFIG, rows())
    metrics: dict[str, Any] = summarise(*compare(cache, spec, ROUNDS, DEMO))
    own, _ = list_sides(cache)
    narrow = [measure(own, spec, "bfloat16") for _ in range(ROUNDS)]
    metrics |= {
        "flops_share_of_gemm_bfloat16": round(statistics.median(o.flops_share for o in narrow), 3),
        "foundry_bfloat16_tokens_per_s": round(
            statistics.median(o.tokens_per_s for o in narrow), 1
        ),
        "foundry_packed_tokens_per_s": round(
            measure(own, spec, "float32", "packed").tokens_per_s, 1
        ),
        "cpu_flags": list_cpu_flags(),
        "steps": STEPS,
        "rounds": ROUNDS,
    }
    for shape in SHAPES:
        spec = write_spec(find_model(cache, shape), scratch / shape, CONFIG, rows())
        found = summarise(*compare(cache, spec, ROUNDS, shape))
        metrics |= {f"{shape}_{key}": value for key, value in found.items()}
        metrics["max_loss_gap"] = max(metrics["max_loss_gap"], found["max_loss_gap"])
    return metrics


def main() -> int:
    cache = load_settings().home / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="foundry-bench-"))
    try:
        metrics = run_all(cache, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    metrics["missed"] = list_missed(metrics, GOALS)
    print(json.dumps({"bench": "train", "metrics": metrics}))
    return 1 if metrics["missed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
