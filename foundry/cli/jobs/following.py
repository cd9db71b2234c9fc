"""Following a job: a progress bar on standard error, the outcome on standard output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from foundry.cli.advice import print_already, print_next_step
from foundry.cli.jobs import fleets
from foundry.cli.jobs.words import count_steps, describe_phase, describe_steps, list_measures
from foundry.cli.output.console import (
    Detached,
    Output,
    print_json,
    print_note,
    print_record,
    stderr,
)
from foundry.cli.output.progress import make_columns, read_number
from foundry.errors import Conflict, FoundryError, InvalidRequest, NotFound

if TYPE_CHECKING:
    from rich.console import Console

    from foundry.execution.jobs.schemas import JobOut
    from foundry.sdk import Foundry

_LINE_EVERY_S = 5.0
_REFRESH_PER_S = 4
# With the longest words and times beside it, a line is 80 cells.
_BAR_CELLS = 16
_TRAINING = "training"
# Below, an adapter of few examples has hardly moved.
_FEW_STEPS = 20


def follow_job(client: Foundry, job: JobOut, output: Output) -> None:
    """Show a job until it ends, then its result.

    Raises:
        FoundryError: it failed (with the job's own code) or was cancelled.
        Detached: the user has interrupted; the job goes on.
    """
    if job.note is None:
        print_note(f"job {job.id} for {job.name}")
    else:
        print_already(job)
    try:
        with show_progress(stderr()) as show:
            ended = client.jobs.wait(job.id, show)
    except KeyboardInterrupt:
        print_note(
            f"\ndetached; job {job.id} goes on\n"
            f"  follow it   foundry jobs watch {job.id}\n"
            f"  stop it     foundry jobs cancel {job.id}"
        )
        raise Detached from None
    print_ended_job(client, ended, output)


def print_ended_job(client: Foundry, job: JobOut, output: Output) -> None:
    """Print a job that has ended. Raises FoundryError: it has no result."""
    if output is Output.JSON:
        print_json(job.model_dump(mode="json"))
    elif job.result is not None:
        print_record(_flatten_result(job.result), output)
    if job.state == "FAILED":
        raise _make_failure(job)
    if job.state == "CANCELLED":
        raise FoundryError(
            f"job {job.id} was cancelled: `foundry jobs resume {job.id}` continues it"
        )
    if job.result is not None and output is Output.TABLE:
        _print_few_steps(job)
        print_next_step(client, job)


def _print_few_steps(job: JobOut) -> None:
    """A newcomer's ten rows are three steps, after which the model answers as before."""
    steps = count_steps(job)
    if steps is not None and steps < _FEW_STEPS:
        print_note(
            f"it learnt for {steps:.0f} steps only: of few examples more stays with "
            "--epochs 20 --lr 2e-3"
        )


def _flatten_result(result: dict[str, object]) -> dict[str, object]:
    metrics = result.get("metrics")
    rest = {name: value for name, value in result.items() if name != "metrics"}
    return rest | (metrics if isinstance(metrics, dict) else {})


def _make_failure(job: JobOut) -> FoundryError:
    from foundry.sdk.errors import by_code

    error = job.error or {}
    message = error.get("message") or "no reason was recorded"
    kind = by_code(error.get("code"))
    again = "tries again from its last checkpoint" if job.kind != "import" else "tries again"
    then = f", `foundry jobs resume {job.id}` {again}"
    if issubclass(kind, InvalidRequest | NotFound | Conflict):
        # As often as it is repeated: what it was given has to change.
        then = "; mend that and submit it anew"
    return kind(
        f"job {job.id} failed: {message}; `foundry jobs logs {job.id}` shows its output{then}"
    )


class _View(Progress):
    """A job's bar, below it what it measures and the workers of a fleet."""

    _below: tuple[RenderableType, ...] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from self._below

    def show(self, job: JobOut) -> None:
        measured = "  ".join(list_measures(job))
        fleet = fleets.make_view(job.progress, self.console.width)
        numbers = Text(f"  {measured}") if measured else None
        self._below = tuple(part for part in (numbers, fleet) if part is not None)
        phase, task = describe_phase(job), self.tasks[0]
        # Only steps tell how long it will take; `update` takes None for "as it was".
        task.total = read_number(job.progress, "total_steps") if phase == _TRAINING else None
        self.update(
            task.id,
            description=phase,
            completed=read_number(job.progress, "step") or task.completed,
            steps=describe_steps(job),
        )


@contextmanager
def show_progress(console: Console) -> Iterator[Callable[[JobOut], None]]:
    if not console.is_terminal:
        yield _print_lines(console)
        return
    middle = (BarColumn(_BAR_CELLS), TextColumn("{task.fields[steps]}", markup=False))
    with _View(*make_columns(*middle), console=console, refresh_per_second=_REFRESH_PER_S) as view:
        view.add_task("waiting", total=None, steps="")
        yield view.show


def _print_lines(console: Console) -> Callable[[JobOut], None]:
    """Print lines for a log: each phase once, and numbers every few seconds."""
    last: tuple[str, ...] = ("",)
    at = -_LINE_EVERY_S

    def show(job: JobOut) -> None:
        nonlocal last, at
        now = time.monotonic()
        numbers = "  ".join(filter(None, (describe_steps(job), *list_measures(job))))
        shown = (describe_phase(job), numbers, fleets.describe_traffic(job.progress))
        if shown == last or (shown[0] == last[0] and now - at < _LINE_EVERY_S):
            return
        last, at = shown, now
        console.print("  ".join(filter(None, shown)), markup=False)

    return show
