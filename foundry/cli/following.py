"""Following a job: a progress bar on standard error, the outcome on standard output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from foundry.cli.console import Detached, Output, print_json, print_record, stderr
from foundry.errors import FoundryError

if TYPE_CHECKING:
    from rich.console import Console

    from foundry.jobs.schemas import JobOut
    from foundry.sdk import Foundry

_LINE_EVERY_S = 5.0
_REFRESH_PER_S = 4


def follow(client: Foundry, job: JobOut, output: Output) -> None:
    """Show a job until it ends, then its result.

    Raises:
        FoundryError: it failed (with the job's own code) or was cancelled.
        Detached: the user has interrupted; the job goes on.
    """
    try:
        with _display(stderr()) as show:
            ended = client.jobs.wait(job.id, show)
    except KeyboardInterrupt:
        stderr().print(
            f"\ndetached; job {job.id} goes on\n"
            f"  follow it   foundry jobs watch {job.id}\n"
            f"  stop it     foundry jobs cancel {job.id}",
            markup=False,
        )
        raise Detached from None
    report(ended, output)


def report(job: JobOut, output: Output) -> None:
    """Print a job that has ended. Raises FoundryError: it has no result."""
    if output is Output.JSON:
        print_json(job.model_dump(mode="json"))
    elif job.result is not None:
        print_record(_flat(job.result), output)
    if job.state == "FAILED":
        raise _failure(job)
    if job.state == "CANCELLED":
        raise FoundryError(
            f"job {job.id} was cancelled: `foundry jobs resume {job.id}` continues it"
        )
    if job.result is not None and output is Output.TABLE:
        stderr().print(f"next: foundry deploy {job.result.get('model')}", markup=False)


def _flat(result: dict[str, object]) -> dict[str, object]:
    metrics = result.get("metrics")
    rest = {name: value for name, value in result.items() if name != "metrics"}
    return rest | (metrics if isinstance(metrics, dict) else {})


def _failure(job: JobOut) -> FoundryError:
    from foundry.sdk.errors import by_code

    error = job.error or {}
    message = error.get("message") or "no reason was recorded"
    return by_code(error.get("code"))(
        f"job {job.id} failed: {message}; `foundry jobs logs {job.id}` shows its output, "
        f"`foundry jobs resume {job.id}` tries again from its last checkpoint"
    )


@contextmanager
def _display(console: Console) -> Iterator[Callable[[JobOut], None]]:
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[numbers]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("eta", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=_REFRESH_PER_S) as progress:
        bar = progress.add_task("waiting", total=None, numbers="")

        def show(job: JobOut) -> None:
            total = _number(job, "total_steps")
            progress.update(
                bar,
                description=_phase(job),
                completed=_number(job, "step") or 0,
                total=total or None,
                numbers=_numbers(job),
            )

        yield show


def _lines(console: Console) -> Callable[[JobOut], None]:
    """For logs: each phase once, and a line of numbers every few seconds."""
    last: tuple[str, str] = ("", "")
    at = -_LINE_EVERY_S

    def show(job: JobOut) -> None:
        nonlocal last, at
        now, shown = time.monotonic(), (_phase(job), _numbers(job))
        if shown == last or (shown[0] == last[0] and now - at < _LINE_EVERY_S):
            return
        last, at = shown, now
        console.print("  ".join(filter(None, shown)), markup=False)

    return show


def _phase(job: JobOut) -> str:
    """What happens now, in words."""
    state = job.state.lower()
    phase = job.progress.get("phase")
    working = job.state == "RUNNING" and isinstance(phase, str)
    words = str(phase) if working else state
    return f"{words}, cancelling" if job.cancel_requested and job.finished_at is None else words


def _numbers(job: JobOut) -> str:
    step, total = _number(job, "step"), _number(job, "total_steps")
    if not total:
        return ""
    parts = [f"step {step or 0:.0f}/{total:.0f}"]
    for name, form in (
        ("loss", "loss {:.4f}"),
        ("eval_loss", "eval {:.4f}"),
        ("tokens_per_second", "{:,.0f} tokens/s"),
    ):
        if (value := _number(job, name)) is not None:
            parts.append(form.format(value))
    return "  ".join(parts)


def _number(job: JobOut, name: str) -> float | None:
    value = job.progress.get(name)
    return float(value) if isinstance(value, int | float) else None
