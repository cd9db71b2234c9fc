"""`make bench NAME=bf16`: how far training in bfloat16 strays from training in float32.

60 steps of the demo's model with LoRA and of all its weights, three seeds: the largest distance of
a step's loss from the same step's in float32 (`bf16_loss_gap`, nats), for TRL with PEFT as well
(`trl_bf16_loss_gap`: LoRA on all seeds, all weights on the first). The peer is held against
Foundry's float32, from which its own float32 differs by `trl_float32_loss_gap`. A loss is a mean
over some 200 tokens, so rounding alone moves it by 0.003. Then the speed of bfloat16 over that of
float32 on the `train` benchmark's batches, in turns.
"""

import json
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from foundry.config import load_settings
from foundry.engines.training.config import Full, Lora, SftConfig
from tests.bench import train
from tests.bench.goals import Goal, list_missed
from tests.bench.machine import list_cpu_flags
from tests.bench.train_models import DEMO, find_model
from tests.bench.train_sides import list_sides, loss_gap, measure, write_spec

STEPS = 60
SEEDS = (0, 1, 2)
SPEED_ROUNDS = 3
# Common rates of the two methods; the batch is small so that the whole takes minutes.
RATES = {"lora": 2e-4, "full": 2e-5}
CONFIG = SftConfig(
    max_steps=STEPS,
    batch_size=3,
    micro_batch_size=3,
    max_seq_len=256,
    warmup_ratio=0.0,
    checkpoint_every=10_000,
)
_METHODS = {"lora": Lora(rank=16, alpha=32), "full": Full()}
_GOODS = ["glass", "paper", "copper", "cotton", "timber", "barley", "salt", "wool", "coal", "wine"]
_PORTS = ["Lyon", "Porto", "Ghent", "Turin", "Graz", "Bergen", "Cork", "Malmo", "Split", "Riga"]


def make_rows(seed: int) -> list[dict[str, Any]]:
    """A shipping ledger: its form can be learnt, its numbers cannot, so the loss stays a loss."""
    draw = random.Random(seed)
    rows = []
    for _ in range(STEPS * CONFIG.batch_size):
        entries = " ".join(
            f"{draw.randint(10, 99)} tons of {draw.choice(_GOODS)} went from {draw.choice(_PORTS)} "
            f"to {draw.choice(_PORTS)} on day {draw.randint(1, 31)}."
            for _ in range(4)
        )
        rows.append(
            {
                "messages": [
                    {"role": "system", "content": "Ledger."},
                    {"role": "user", "content": "Go on."},
                    {"role": "assistant", "content": entries},
                ]
            }
        )
    return rows


def configure(method: str, seed: int) -> SftConfig:
    """The configuration of one run, in float32."""
    return CONFIG.model_copy(update={"method": _METHODS[method], "lr": RATES[method], "seed": seed})


def measure_gaps(cache: Path, scratch: Path) -> dict[str, float]:
    """The largest gaps by method and side."""
    own, peer = list_sides(cache)
    base = find_model(cache, DEMO)
    gaps: dict[str, list[float]] = {}

    def note(name: str, gap: float) -> None:
        gaps.setdefault(name, []).append(gap)
        print(f"{name}: {gap:.4f}", file=sys.stderr, flush=True)

    for method in _METHODS:
        for seed in SEEDS:
            folder = scratch / f"{method}-{seed}"
            spec = write_spec(base, folder, configure(method, seed), make_rows(seed))
            wide = measure(own, spec)
            note(f"bf16_loss_gap_{method}", loss_gap(measure(own, spec, "bfloat16"), wide))
            if method == "lora" or seed == SEEDS[0]:
                narrow = measure(peer, spec, "bfloat16")
                note(f"trl_bf16_loss_gap_{method}", loss_gap(narrow, wide))
            if method == "lora" and seed == SEEDS[0]:
                note("trl_float32_loss_gap", loss_gap(measure(peer, spec), wide))
    return {name: round(max(values), 4) for name, values in gaps.items()}


def measure_speed(cache: Path, scratch: Path) -> float:
    """Tokens per second in bfloat16 over those in float32; medians of runs in turns."""
    own, _ = list_sides(cache)
    spec = write_spec(find_model(cache, DEMO), scratch / "speed", train.CONFIG, train.rows())
    speeds: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for _ in range(SPEED_ROUNDS):
        for precision, found in speeds.items():
            found.append(measure(own, spec, precision).tokens_per_s)
    return statistics.median(speeds["bfloat16"]) / statistics.median(speeds["float32"])


def main() -> int:
    cache = load_settings().home / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="foundry-bench-"))
    try:
        gaps = measure_gaps(cache, scratch)
        speed = measure_speed(cache, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    metrics: dict[str, Any] = {
        side: max(value for name, value in gaps.items() if name.startswith(side))
        for side in ("bf16_loss_gap", "trl_bf16_loss_gap")
    }
    metrics |= gaps | {
        "bf16_speed_over_fp32": round(speed, 3),
        "cpu_flags": list_cpu_flags(),
        "steps": STEPS,
        "seeds": len(SEEDS),
    }
    # Only AMX multiplies bfloat16 more than twice as fast as float32.
    goals = {"bf16_loss_gap": Goal(at_most=0.01)}
    if "amx_bf16" in metrics["cpu_flags"]:
        goals["bf16_speed_over_fp32"] = Goal(at_least=2.0)
    metrics["missed"] = list_missed(metrics, goals)
    print(json.dumps({"bench": "bf16", "metrics": metrics}))
    return 1 if metrics["missed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
