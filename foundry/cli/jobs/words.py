"""What a job does and how far it is, in a few words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from foundry.cli.jobs import fleets
from foundry.cli.output.progress import format_numbers, read_number

if TYPE_CHECKING:
    from foundry.execution.jobs.schemas import JobOut

# Where neither they nor the steps were said.
_EPOCHS = 3
_NUMBERS = {
    "loss": "loss {:.4f}",
    "eval_loss": "eval loss {:.4f}",
    "tokens_per_second": "{:,.0f} tokens/s",
}


def describe_job(job: JobOut) -> str:
    """What a list of jobs tells of one: what it waits for or does, its step and its loss."""
    phase = describe_phase(job)
    if job.finished_at is not None or phase == job.state.lower():
        # The list's column of states says it already.
        phase = ""
    measured = (job.result or {}).get("metrics")
    losses = (
        format_numbers(measured, {"loss": "loss {:.4f}"}) if isinstance(measured, Mapping) else []
    )
    losses = losses or [told for told in list_measures(job) if told.startswith("loss")]
    return ", ".join(filter(None, (phase, describe_steps(job), *losses)))


def count_steps(job: JobOut) -> int | None:
    """Optimiser steps of a fine-tuning that has succeeded; None: it is another job."""
    config, metrics = job.spec.get("config"), (job.result or {}).get("metrics")
    if not isinstance(config, Mapping) or not isinstance(metrics, Mapping):
        return None
    examples, batch = read_number(metrics, "examples"), read_number(config, "batch_size")
    if job.kind != "sft" or not examples or not batch or config.get("packing"):
        return None
    epochs = read_number(config, "epochs") or _EPOCHS
    return int(read_number(config, "max_steps") or math.ceil(examples / batch) * epochs)


def describe_phase(job: JobOut) -> str:
    """What happens now, in words."""
    state = job.state.lower()
    if job.waiting_for is not None and job.finished_at is None:
        state = f"waiting for {job.waiting_for}"
    phase = job.progress.get("phase")
    working = job.state in ("RUNNING", "CHECKPOINTING") and isinstance(phase, str)
    words = str(phase) if working else state
    return f"{words}, cancelling" if job.cancel_requested and job.finished_at is None else words


def describe_steps(job: JobOut) -> str:
    """How far it is; empty before it trains."""
    if job.kind == "diloco":
        return fleets.describe_steps(job.progress)
    total = read_number(job.progress, "total_steps")
    return f"step {read_number(job.progress, 'step') or 0:.0f}/{total:.0f}" if total else ""


def list_measures(job: JobOut) -> list[str]:
    """What it measures, by name; empty before it trains."""
    if not read_number(job.progress, "total_steps"):
        return []
    forms = fleets.LOSSES if job.kind == "diloco" else _NUMBERS
    return format_numbers(job.progress, forms)
