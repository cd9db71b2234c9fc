"""Training processes that kill themselves; run by test_resume.

Usage: python -m tests.engines.training.interrupted MODEL_DIR ROWS.json WORK_DIR:KIND:COUNT...
Each runs in a fork of its own, so torch is imported once. KIND `event` dies when COUNT steps were
reported, `flush` when COUNT files or directories are about to be flushed to disk. Prints the exit
codes as JSON.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from foundry.engines.training import files
from foundry.engines.training.config import Lora, SftConfig
from foundry.engines.training.progress import TrainEvent
from foundry.engines.training.sft import run_sft

CONFIG = SftConfig(
    method=Lora(rank=4, dropout=0.1),
    max_steps=7,
    batch_size=2,
    micro_batch_size=1,
    max_seq_len=160,
    packing=True,
    lr=1e-2,
    checkpoint_every=2,
    seed=3,
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(model_dir: Path, rows: Path, work_dir: Path, kind: str, count: int) -> None:
    torch.set_num_threads(1)
    flush, flushed = files.flush, 0

    def counted(path: Path) -> None:
        nonlocal flushed
        flushed += 1
        if kind == "flush" and flushed == count:
            die()
        flush(path)

    def on_event(event: TrainEvent) -> None:
        if kind == "event" and event.step == count:
            die()

    files.flush = counted
    run_sft(
        CONFIG,
        model_dir=model_dir,
        train_rows=json.loads(rows.read_text()),
        work_dir=work_dir,
        on_event=on_event,
    )


def main(model_dir: str, rows: str, *specs: str) -> None:
    # torch imports its compiler when the first optimiser is built: once here, not in every fork.
    torch.optim.AdamW([torch.zeros(1)])
    codes = []
    for spec in specs:
        work_dir, kind, count = spec.split(":")
        child = os.fork()
        if child == 0:
            train(Path(model_dir), Path(rows), Path(work_dir), kind, int(count))
            os._exit(0)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.stdout.write(json.dumps(codes))


if __name__ == "__main__":
    main(*sys.argv[1:])
