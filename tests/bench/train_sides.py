"""The two sides of a training benchmark: what they are told, run in turns, and what they return.

Each run is a process of its own, `python -m tests.bench.train_sides SPEC RESULT PRECISION [packed]`
or the peer's program. A specification is a JSON file that both read.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundry.config import child_environment
from foundry.engines.training.config import Lora, SftConfig
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.messages.rows import prepare
from foundry.engines.training.messages.targets import Example
from foundry.engines.training.messages.tokenizer import ChatTokenizer
from foundry.engines.training.sampler import Cursor, Sampler
from foundry.engines.training.sft import run_sft
from tests.bench.machine import measure_matmul_rate, read_peak_memory
from tests.bench.peers.environments import PEERS, install_peer
from tests.bench.train_models import Cost

THREADS = 2

Command = list[str | Path]
Row = dict[str, Any]


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


def list_sides(cache: Path) -> tuple[Command, Command]:
    """The commands of Foundry's side and of the peer's."""
    return (
        [sys.executable, "-m", "tests.bench.train_sides"],
        [install_peer(cache, "trl"), PEERS / "trl_sft.py"],
    )


def order_examples(config: SftConfig, rows: Sequence[Row], base: Path) -> list[Example]:
    """What Foundry will train on, in its order."""
    tokenizer = ChatTokenizer.load(base)
    examples = prepare(rows, tokenizer, max_seq_len=config.max_seq_len, too_long="error").examples
    sampler, cursor = Sampler([len(e.tokens) for e in examples], config), Cursor()
    ordered: list[Example] = []
    for _ in range(sampler.total_steps()):
        items, cursor = sampler.batch(cursor)
        ordered.extend(examples[i] for item in items for i in item)
    return ordered


def write_spec(base: Path, folder: Path, config: SftConfig, rows: Sequence[Row]) -> Path:
    """What both sides are told: model, initial adapter, and the rows in Foundry's order."""
    folder.mkdir(parents=True)
    adapter = None
    if isinstance(config.method, Lora):
        adapter = folder / "initial-adapter"
        adapter.mkdir()
        model = load_model(base)
        lora.attach(model, config.method, config.seed)
        lora.export_adapter(model, config.method, adapter)
    spec = {
        "model_dir": str(base),
        "adapter_dir": None if adapter is None else str(adapter),
        "work_dir": str(folder / "trl"),
        "steps": config.max_steps,
        "threads": THREADS,
        "batch_size": config.batch_size,
        "micro_batch_size": config.micro_batch_size,
        "max_seq_len": config.max_seq_len,
        "lr": config.lr,
        "config": config.model_dump(mode="json"),
        "chat_rows": list(rows),
        "rows": [
            {
                "input_ids": list(e.tokens),
                "labels": [
                    token if flag else -100 for token, flag in zip(e.tokens, e.trained, strict=True)
                ],
            }
            for e in order_examples(config, rows, base)
        ],
    }
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    return path


def run_foundry(spec_path: Path, result_path: Path, precision: str, options: Sequence[str]) -> None:
    """Foundry's side, in a process of its own."""
    import torch

    spec = json.loads(spec_path.read_text())
    torch.set_num_threads(spec["threads"])
    config = SftConfig.model_validate({**spec["config"], "precision": precision})
    if "packed" in options:
        # Packs of at most 512 tokens: as many tokens a step as eight rows have.
        packs = {"packing": True, "batch_size": 2, "micro_batch_size": 2}
        config = config.model_copy(update=packs)
    finished: list[float] = []
    losses: list[float] = []
    tokens: list[int] = []

    def record(event: Any) -> None:
        finished.append(time.perf_counter())
        losses.append(event.loss)
        tokens.append(event.tokens_total)

    with tempfile.TemporaryDirectory() as work:
        run_sft(
            config,
            model_dir=Path(spec["model_dir"]),
            train_rows=spec["chat_rows"],
            work_dir=Path(work),
            on_event=record,
        )
    peak = read_peak_memory()
    result = {"losses": losses, "finished": finished, "tokens": tokens, "peak_bytes": peak}
    if isinstance(config.method, Lora) and not config.packing:
        rate = measure_matmul_rate(getattr(torch, precision))
        flops = count_flops(spec, config.method.rank)
        result["flops_share"] = flops / (finished[-1] - finished[0]) / rate
    result_path.write_text(json.dumps(result))


def count_flops(spec: Mapping[str, Any], rank: int) -> int:
    """Of all steps but the first."""
    cost = Cost.of(Path(spec["model_dir"]), rank)
    timed = spec["rows"][spec["batch_size"] :]
    trained = sum(label != -100 for row in timed for label in row["labels"])
    return cost.count_flops([len(row["input_ids"]) for row in timed], trained)


def measure(
    command: Command, spec_path: Path, precision: str = "float32", *options: str
) -> Outcome:
    """Run one side once."""
    result_path = spec_path.parent / "result.json"
    environment = child_environment(
        OMP_NUM_THREADS=str(THREADS), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
    )
    subprocess.run(
        [*command, spec_path, result_path, precision, *options],
        check=True,
        stdout=sys.stderr,
        env=environment,
    )
    result = json.loads(result_path.read_text())
    spec = json.loads(spec_path.read_text())
    size, sizes = spec["batch_size"], [len(row["input_ids"]) for row in spec["rows"]]
    totals = result.get("tokens") or [sum(sizes[: (i + 1) * size]) for i in range(spec["steps"])]
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


if __name__ == "__main__":
    run_foundry(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
