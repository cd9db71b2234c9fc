"""`make bench NAME=train`: Foundry's SFT against TRL's SFTTrainer with PEFT, on the same host.

Same model, rows, masks, batches, initial adapter, schedule and precision; each run is a process of
its own, the two sides take turns, medians are reported. Tokens are the rows' own: padding does not
count. Neither side recomputes activations. The losses must agree before speed means anything.

`flops_share_of_gemm` is the model's FLOP per second (see `train_models.Cost`) over the rate of a
large matrix product of that type in the same process with the same threads.
"""

import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundry.config import child_environment, load_settings
from foundry.engines.training.config import Lora, SftConfig
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.messages.rows import prepare
from foundry.engines.training.messages.targets import Example
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.engines.training.sampler import Cursor, Sampler
from foundry.engines.training.sft import run_sft
from tests.bench.machine import list_cpu_flags, measure_matmul_rate
from tests.bench.peers.environments import PEERS, install_peer
from tests.bench.train_models import DEMO, SHAPES, Cost, find_model

ROUNDS = 3
# Of the other families' shapes, which have no goal but to be no worse.
SHAPE_ROUNDS = 1
STEPS = 6
THREADS = 2
METHOD = Lora(rank=16, alpha=32)
CONFIG = SftConfig(
    method=METHOD,
    max_steps=STEPS,
    batch_size=8,
    micro_batch_size=8,
    max_seq_len=512,
    lr=2e-4,
    warmup_ratio=0.0,
    checkpoint_every=10_000,
)
PACKED = CONFIG.model_copy(update={"packing": True, "batch_size": 2, "micro_batch_size": 2})


@dataclass(frozen=True)
class Outcome:
    """One run of one side.

    Attributes:
        tokens_per_s: from the end of the first step, so loading is left out.
        flops_share: of the large product's rate; 0 for the peer, which measures none.
    """

    tokens_per_s: float
    peak_bytes: int
    losses: list[float]
    flops_share: float = 0.0


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


def ordered_examples(tokenizer: ChatTokenizer) -> list[Example]:
    """What Foundry will train on, in its order."""
    examples = prepare(rows(), tokenizer, max_seq_len=CONFIG.max_seq_len, too_long="error").examples
    sampler, cursor = Sampler([len(e.tokens) for e in examples], CONFIG), Cursor()
    ordered: list[Example] = []
    for _ in range(STEPS):
        items, cursor = sampler.batch(cursor)
        ordered.extend(examples[i] for item in items for i in item)
    return ordered


def write_spec(base: Path, scratch: Path) -> Path:
    """What both sides are told: model, initial adapter, and the rows in Foundry's order."""
    adapter = scratch / "initial-adapter"
    adapter.mkdir(parents=True)
    model = load_model(base)
    lora.attach(model, METHOD, CONFIG.seed)
    lora.export_adapter(model, METHOD, adapter)
    examples = ordered_examples(ChatTokenizer.load(base))
    spec = {
        "model_dir": str(base),
        "adapter_dir": str(adapter),
        "work_dir": str(scratch / "trl"),
        "steps": STEPS,
        "threads": THREADS,
        "batch_size": CONFIG.batch_size,
        "micro_batch_size": CONFIG.micro_batch_size,
        "max_seq_len": CONFIG.max_seq_len,
        "precision": "float32",
        "lr": CONFIG.lr,
        "rows": [
            {
                "input_ids": list(e.tokens),
                "labels": [
                    token if flag else -100 for token, flag in zip(e.tokens, e.trained, strict=True)
                ],
            }
            for e in examples
        ],
    }
    path = scratch / "spec.json"
    path.write_text(json.dumps(spec))
    return path


def run_foundry(spec_path: Path, result_path: Path, *options: str) -> None:
    """Foundry's side, in a process of its own; options: `packed`, or a precision."""
    import torch

    spec = json.loads(spec_path.read_text())
    torch.set_num_threads(spec["threads"])
    base = Path(spec["model_dir"])
    precision = next((name for name in options if name != "packed"), spec["precision"])
    finished: list[float] = []
    losses: list[float] = []
    tokens: list[int] = []

    def record(event: Any) -> None:
        finished.append(time.perf_counter())
        losses.append(event.loss)
        tokens.append(event.tokens_total)

    with tempfile.TemporaryDirectory() as work:
        run_sft(
            (PACKED if "packed" in options else CONFIG).model_copy(update={"precision": precision}),
            model_dir=base,
            train_rows=rows(),
            work_dir=Path(work),
            on_event=record,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"losses": losses, "finished": finished, "tokens": tokens, "peak_bytes": peak}
    rate = measure_matmul_rate(getattr(torch, precision))
    result["flops_share"] = count_flops(spec) / (finished[-1] - finished[0]) / rate
    result_path.write_text(json.dumps(result))


def count_flops(spec: dict[str, Any]) -> int:
    """Of all steps but the first."""
    cost = Cost.of(Path(spec["model_dir"]), METHOD.rank)
    timed = spec["rows"][CONFIG.batch_size :]
    trained = sum(label != -100 for row in timed for label in row["labels"])
    return cost.count_flops([len(row["input_ids"]) for row in timed], trained)


def measure(command: list[str | Path], spec_path: Path, *options: str) -> Outcome:
    """Run one side."""
    result_path = spec_path.parent / "result.json"
    environment = child_environment(
        OMP_NUM_THREADS=str(THREADS), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
    )
    subprocess.run(
        [*command, spec_path, result_path, *options],
        check=True,
        stdout=sys.stderr,
        env=environment,
    )
    result = json.loads(result_path.read_text())
    sizes = [len(row["input_ids"]) for row in json.loads(spec_path.read_text())["rows"]]
    size = CONFIG.batch_size
    totals = result.get("tokens") or [sum(sizes[: (i + 1) * size]) for i in range(STEPS)]
    seconds = result["finished"][-1] - result["finished"][0]
    return Outcome(
        tokens_per_s=(totals[-1] - totals[0]) / seconds,
        peak_bytes=result["peak_bytes"],
        losses=result["losses"],
        flops_share=result.get("flops_share", 0.0),
    )


def loss_gap(ours: Outcome, theirs: Outcome) -> float:
    """The largest difference of a step's loss, nats."""
    return max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))


def list_sides(cache: Path) -> tuple[list[str | Path], list[str | Path]]:
    """The commands of Foundry's side and of the peer's."""
    return (
        [sys.executable, "-m", "tests.bench.train", "--side"],
        [install_peer(cache, "trl"), PEERS / "trl_sft.py"],
    )


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
    spec = write_spec(find_model(cache, DEMO), scratch / DEMO)
    metrics: dict[str, Any] = summarise(*compare(cache, spec, ROUNDS, DEMO))
    own, _ = list_sides(cache)
    narrow = [measure(own, spec, "bfloat16") for _ in range(ROUNDS)]
    metrics |= {
        "flops_share_of_gemm_bfloat16": round(statistics.median(o.flops_share for o in narrow), 3),
        "foundry_bfloat16_tokens_per_s": round(
            statistics.median(o.tokens_per_s for o in narrow), 1
        ),
        "foundry_packed_tokens_per_s": round(measure(own, spec, "packed").tokens_per_s, 1),
        "cpu_flags": list_cpu_flags(),
        "steps": STEPS,
        "rounds": ROUNDS,
    }
    for shape in SHAPES:
        spec = write_spec(find_model(cache, shape), scratch / shape)
        found = summarise(*compare(cache, spec, SHAPE_ROUNDS, shape))
        metrics |= {f"{shape}_{key}": value for key, value in found.items()}
        metrics["max_loss_gap"] = max(metrics["max_loss_gap"], found["max_loss_gap"])
    return metrics


def main() -> int:
    if sys.argv[1:2] == ["--side"]:
        run_foundry(Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
        return 0
    cache = load_settings().home / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="foundry-bench-"))
    try:
        metrics = run_all(cache, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({"bench": "train", "metrics": metrics}))
    return 0 if metrics["max_loss_gap"] <= 1e-3 else 1


if __name__ == "__main__":
    raise SystemExit(main())
