"""`make bench NAME=train`: Foundry's SFT against TRL's SFTTrainer with PEFT, on the same host.

Same model, rows, masks, batches, initial adapter, schedule and precision; each run is a process of
its own, the two sides take turns, medians are reported. Tokens are the rows' own: padding does not
count. Neither side recomputes activations. The losses must agree before speed means anything.
"""

import hashlib
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundry.config import child_environment, load_settings
from foundry.engines.training.config import Lora, SftConfig
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.files import whole_directory
from foundry.engines.training.gguf_import import bundled_gguf, convert_gguf
from foundry.engines.training.messages.rows import prepare
from foundry.engines.training.messages.targets import Example
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.engines.training.sampler import Cursor, Sampler
from foundry.engines.training.sft import run_sft

PEERS = Path(__file__).parent / "peers"
ROUNDS = 3
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
    tokens_per_s: float
    peak_bytes: int
    losses: list[float]


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


def model_dir(cache: Path) -> Path:
    target = cache / "smollm2-135m-instruct"
    if not target.is_dir():
        with whole_directory(target) as staging:
            convert_gguf(bundled_gguf(), staging)
    return target


def peer_python(cache: Path) -> Path:
    """TRL's environment: made once per set of pins."""
    requirements = PEERS / "trl.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    target = cache / f"trl-venv-{digest}"
    python = target / "bin" / "python"
    ready = target / "ready"
    if not ready.is_file():
        print(f"creating {target}", file=sys.stderr, flush=True)
        venv.create(target, with_pip=True, clear=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "-r", requirements],
            check=True,
            stdout=sys.stderr,
        )
        ready.touch()
    return python


def ordered_examples(tokenizer: ChatTokenizer) -> list[Example]:
    """What Foundry will train on, in its order."""
    examples = prepare(rows(), tokenizer, max_seq_len=CONFIG.max_seq_len, too_long="error").examples
    sampler, cursor = Sampler([len(e.tokens) for e in examples], CONFIG), Cursor()
    ordered: list[Example] = []
    for _ in range(STEPS):
        items, cursor = sampler.batch(cursor)
        ordered.extend(examples[i] for item in items for i in item)
    return ordered


def write_spec(cache: Path, scratch: Path) -> Path:
    base = model_dir(cache)
    adapter = scratch / "initial-adapter"
    adapter.mkdir()
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


def foundry_side(spec_path: Path, result_path: Path, packed: bool) -> None:
    import torch

    spec = json.loads(spec_path.read_text())
    torch.set_num_threads(spec["threads"])
    finished: list[float] = []
    losses: list[float] = []
    tokens: list[int] = []

    def record(event: Any) -> None:
        finished.append(time.perf_counter())
        losses.append(event.loss)
        tokens.append(event.tokens_total)

    with tempfile.TemporaryDirectory() as work:
        run_sft(
            PACKED if packed else CONFIG,
            model_dir=Path(spec["model_dir"]),
            train_rows=rows(),
            work_dir=Path(work),
            on_event=record,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"losses": losses, "finished": finished, "tokens": tokens, "peak_bytes": peak}
    result_path.write_text(json.dumps(result))


def measure(command: list[str | Path], spec_path: Path, *options: str) -> Outcome:
    """Run one side; its speed counts from the end of the first step, so loading is left out."""
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
    )


def loss_gap(ours: Outcome, theirs: Outcome) -> float:
    """The largest difference of a step's loss, nats."""
    return max(abs(a - b) for a, b in zip(ours.losses, theirs.losses, strict=True))


def compare(cache: Path, scratch: Path) -> dict[str, float]:
    spec = write_spec(cache, scratch)
    peer: list[str | Path] = [peer_python(cache), PEERS / "trl_sft.py"]
    own: list[str | Path] = [sys.executable, "-m", "tests.bench.train", "--side"]
    ours: list[Outcome] = []
    theirs: list[Outcome] = []
    for number in range(ROUNDS):
        ours.append(measure(own, spec))
        theirs.append(measure(peer, spec))
        print(
            f"round {number + 1}: foundry {ours[-1].tokens_per_s:.0f} tokens/s "
            f"{ours[-1].peak_bytes / 2**20:.0f} MiB, trl {theirs[-1].tokens_per_s:.0f} tokens/s "
            f"{theirs[-1].peak_bytes / 2**20:.0f} MiB, "
            f"loss gap {loss_gap(ours[-1], theirs[-1]):.1e}",
            file=sys.stderr,
            flush=True,
        )
    packed = measure(own, spec, "--packed")
    foundry_speed = statistics.median(o.tokens_per_s for o in ours)
    trl_speed = statistics.median(o.tokens_per_s for o in theirs)
    foundry_peak = statistics.median(o.peak_bytes for o in ours)
    trl_peak = statistics.median(o.peak_bytes for o in theirs)
    return {
        "tokens_per_s_ratio": round(foundry_speed / trl_speed, 3),
        "peak_memory_ratio": round(foundry_peak / trl_peak, 3),
        "max_loss_gap": float(f"{max(map(loss_gap, ours, theirs)):.3g}"),
        "foundry_tokens_per_s": round(foundry_speed, 1),
        "trl_tokens_per_s": round(trl_speed, 1),
        "foundry_packed_tokens_per_s": round(packed.tokens_per_s, 1),
        "foundry_peak_mib": round(foundry_peak / 2**20),
        "trl_peak_mib": round(trl_peak / 2**20),
        "steps": STEPS,
        "rounds": ROUNDS,
    }


def main() -> int:
    if sys.argv[1:2] == ["--side"]:
        foundry_side(Path(sys.argv[2]), Path(sys.argv[3]), "--packed" in sys.argv)
        return 0
    cache = load_settings().home / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="foundry-bench-"))
    try:
        metrics = compare(cache, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({"bench": "train", "metrics": metrics}))
    return 0 if metrics["max_loss_gap"] <= 1e-3 else 1


if __name__ == "__main__":
    raise SystemExit(main())
