"""`foundry jobs`: what runs, what ran, and why it failed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from foundry.cli import fleets, session
from foundry.cli.console import Output, OutputOption, print_json, print_record, print_rows
from foundry.cli.terminal import printable

if TYPE_CHECKING:
    from pydantic import BaseModel

Row = TypeVar("Row", bound="BaseModel")

app = typer.Typer(add_completion=False, no_args_is_help=True)

_COLUMNS = ("id", "kind", "name", "state", "attempt", "created_at", "finished_at")
_FOLLOW_POLL_S = 1.0
_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
_MOST_CHUNKS = 200
_MOST_METRICS = 10_000
_MOST_ROWS = 200
_ROUNDS = (
    "round",
    "fragment",
    "merged",
    "batches",
    "tokens",
    "loss",
    "eval_loss",
    "aborts",
    "seconds",
    "sent",
    "checkpointed",
)
_EVENTS = ("seq", "at", "round", "member", "kind", "detail")

JobId = Annotated[str, typer.Argument(metavar="ID", help="as `foundry jobs list` shows it")]


@app.command("list", epilog="Example: foundry jobs list --state RUNNING")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="RUNNING, FAILED, …")] = None,
    limit: session.LimitOption = session.DEFAULT_LIMIT,
    output: OutputOption = Output.TABLE,
) -> None:
    """List jobs, newest first."""
    wanted = state.upper() if state else None
    with session.client() as client:
        rows = session.fetched(
            lambda cursor, size: client.jobs.list(state=wanted, cursor=cursor, limit=size), limit
        )
    print_rows(rows, output, columns=_COLUMNS, empty="no jobs yet: foundry train sft --help")


@app.command(epilog="Example: foundry jobs show 0198f3c2-… --output json")
def show(job_id: JobId, output: OutputOption = Output.TABLE) -> None:
    """Show a job with its configuration, progress and result."""
    with session.client() as client:
        print_record(session.record(client.jobs.get(job_id)), output)


@app.command(epilog="Example: foundry jobs watch 0198f3c2-…")
def watch(job_id: JobId, output: OutputOption = Output.TABLE) -> None:
    """Follow a job until it ends. Ctrl-C leaves it running."""
    from foundry.cli.following import follow

    with session.client() as client:
        follow(client, client.jobs.get(job_id), output)


@app.command(epilog="Example: foundry jobs logs 0198f3c2-… --follow")
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="until the job ends")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print a job's output."""
    after, chunks = 0, []
    with session.client() as client:
        while True:
            # Asked before the logs: what a job wrote before it ended is then in them.
            ended = client.jobs.get(job_id).state in _ENDED
            while page := client.jobs.logs(job_id, after=after, limit=_MOST_CHUNKS).data:
                after = page[-1].seq
                if output is Output.JSON:
                    chunks += session.records(page)
                else:
                    typer.echo(printable("".join(chunk.text for chunk in page)), nl=False)
            if ended or not follow:
                break
            time.sleep(_FOLLOW_POLL_S)
    if output is Output.JSON:
        print_json(chunks)


@app.command(epilog="Example: foundry jobs metrics 0198f3c2-… --name loss")
def metrics(
    job_id: JobId,
    name: Annotated[list[str] | None, typer.Option(help="only these; may be repeated")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print a job's metrics, a row per step."""
    after, rows = -1, []
    with session.client() as client:
        while page := client.jobs.metrics(job_id, after=after, limit=_MOST_METRICS).data:
            # A page may end inside a step: that step is asked for again.
            last = page[-1].step
            whole = page if len(page) < _MOST_METRICS else [m for m in page if m.step < last]
            rows += [metric for metric in whole or page if not name or metric.name in name]
            after = whole[-1].step if whole else last
            if len(page) < _MOST_METRICS:
                break
    if output is Output.JSON:
        print_json(session.records(rows))
        return
    steps: dict[int, dict[str, object]] = defaultdict(dict)
    for metric in rows:
        steps[metric.step][metric.name] = metric.value
    columns = ("step", *sorted({metric.name for metric in rows}))
    table = [{"step": step} | values for step, values in sorted(steps.items())]
    print_rows(table, output, columns=columns, empty="no metrics yet")


@app.command(epilog="Example: foundry jobs rounds 0198f3c2-… --output json")
def rounds(job_id: JobId, output: OutputOption = Output.TABLE) -> None:
    """Print the committed rounds of a DiLoCo job."""
    with session.client() as client:
        found = _all(
            lambda after: client.jobs.rounds(job_id, after=after, limit=_MOST_ROWS).data,
            lambda row: row.round,
        )
    shown = found if output is Output.JSON else [row | fleets.totals(row) for row in found]
    print_rows(shown, output, columns=_ROUNDS, empty="no rounds yet")


@app.command(epilog="Example: foundry jobs members 0198f3c2-…")
def members(job_id: JobId, output: OutputOption = Output.TABLE) -> None:
    """Print what happened to the workers of a DiLoCo job: who joined, who was lost, and why."""
    with session.client() as client:
        found = _all(
            lambda after: client.jobs.members(job_id, after=after, limit=_MOST_ROWS).data,
            lambda row: row.seq,
        )
    print_rows(found, output, columns=_EVENTS, empty="nothing happened yet")


@app.command(epilog="Example: foundry jobs cancel 0198f3c2-…")
def cancel(job_id: JobId, output: OutputOption = Output.TABLE) -> None:
    """Stop a job at its next step; what it has checkpointed stays."""
    with session.client() as client:
        _print(session.record(client.jobs.cancel(job_id)), output)


@app.command(epilog="Example: foundry jobs resume 0198f3c2-…")
def resume(
    job_id: JobId,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="do not follow it")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Continue a failed or cancelled job from its last checkpoint, and follow it."""
    from foundry.cli.following import follow

    with session.client() as client:
        job = client.jobs.resume(job_id)
        if detach:
            _print(session.record(job), output)
        else:
            follow(client, job, output)


def _all(
    fetch: Callable[[int], Sequence[Row]], place: Callable[[Row], int]
) -> list[dict[str, object]]:
    """Every row, page by page.

    Args:
        fetch: the page of rows after a place.
    """
    rows: list[Row] = []
    while page := fetch(place(rows[-1]) if rows else 0):
        rows += page
    return session.records(rows)


def _print(job: dict[str, object], output: Output) -> None:
    shown = (*_COLUMNS, "cancel_requested")
    print_record(job if output is Output.JSON else {name: job[name] for name in shown}, output)
