"""`foundry jobs`: what runs, what ran, and why it failed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from foundry.cli import session
from foundry.cli.advice import print_already, print_detached
from foundry.cli.help import examples
from foundry.cli.jobs import fleets
from foundry.cli.jobs.words import describe_job
from foundry.cli.output.console import Output, OutputOption, print_json, print_record, print_rows
from foundry.cli.output.terminal import printable
from foundry.cli.references import find_job
from foundry.cli.suggestions import suggest_jobs
from foundry.errors import Conflict

if TYPE_CHECKING:
    from pydantic import BaseModel

    from foundry.execution.jobs.schemas import JobOut
    from foundry.sdk import Foundry

Row = TypeVar("Row", bound="BaseModel")

app = typer.Typer(add_completion=False, no_args_is_help=True)

_COLUMNS = ("id", "name", "kind", "state", "created_at", "finished_at", "attempt")
_LIST_COLUMNS = ("id", "name", "kind", "state", "progress", "created_at", "finished_at")
_FOLLOW_POLL_S = 1.0
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

JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        help="its id, the beginning of it, its model's name, or `last`",
        autocompletion=suggest_jobs,
    ),
]


@app.command("list", epilog=examples("foundry jobs list --state RUNNING"))
def list_jobs(
    state: Annotated[str | None, typer.Option(help="RUNNING, FAILED, …")] = None,
    limit: session.LimitOption = session.DEFAULT_LIMIT,
    output: OutputOption = Output.TABLE,
) -> None:
    """List jobs, newest first."""
    wanted = state.upper() if state else None
    with session.client() as client:
        rows = session.fetch_rows(
            client.jobs.list(state=wanted, limit=session.choose_page_size(limit)), limit
        )
    empty = f"no jobs in state {wanted}" if wanted else "no jobs yet: foundry train sft --help"
    if output is Output.TABLE:
        from foundry.execution.jobs.schemas import JobOut

        for row in rows:
            row["progress"] = describe_job(JobOut.model_validate(row)) or None
    print_rows(rows, output, columns=_LIST_COLUMNS, empty=empty)


@app.command(epilog=examples("foundry jobs show last --output json"))
def show(job: JobArgument, output: OutputOption = Output.TABLE) -> None:
    """Show a job with its configuration, progress and result."""
    with session.client() as client:
        print_record(session.record(find_job(client, job)), output)


@app.command(epilog=examples("foundry jobs watch last"))
def watch(job: JobArgument, output: OutputOption = Output.TABLE) -> None:
    """Follow a job until it ends. Ctrl-C leaves it running."""
    from foundry.cli.jobs.following import follow_job

    with session.client() as client:
        follow_job(client, find_job(client, job), output)


@app.command(epilog=examples("foundry jobs logs last --follow"))
def logs(
    job: JobArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="until the job ends")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print a job's output."""
    if follow and output is Output.JSON:
        raise Conflict(
            "--follow prints as the job writes, and --output json one document at the end: leave "
            "one of them out"
        )
    from foundry.execution.jobs.schemas import ENDED

    after, chunks = 0, []
    with session.client() as client:
        job_id = find_job(client, job).id
        while True:
            # Asked before the logs: what a job wrote before it ended is then in them.
            ended = client.jobs.get(job_id).state in ENDED
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


@app.command(epilog=examples("foundry jobs metrics last --name loss"))
def metrics(
    job: JobArgument,
    name: Annotated[list[str] | None, typer.Option(help="only these; may be repeated")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print a job's metrics, a row per step."""
    after, rows = -1, []
    with session.client() as client:
        job_id = find_job(client, job).id
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
    empty = f"it has no metric {' or '.join(name)}" if name else "no metrics yet"
    print_rows(table, output, columns=columns, empty=empty)


@app.command(epilog=examples("foundry jobs rounds last --output json"))
def rounds(job: JobArgument, output: OutputOption = Output.TABLE) -> None:
    """Print the committed rounds of a DiLoCo job."""
    with session.client() as client:
        job_id = _find_diloco_job(client, job).id
        found = _fetch_all(
            lambda after: client.jobs.rounds(job_id, after=after, limit=_MOST_ROWS).data,
            lambda row: row.round,
        )
    shown = found if output is Output.JSON else [row | fleets.sum_shares(row) for row in found]
    print_rows(shown, output, columns=_ROUNDS, empty="no rounds yet")


@app.command(epilog=examples("foundry jobs members last"))
def members(job: JobArgument, output: OutputOption = Output.TABLE) -> None:
    """Print what happened to the workers of a DiLoCo job: who joined, who was lost, and why."""
    with session.client() as client:
        job_id = _find_diloco_job(client, job).id
        found = _fetch_all(
            lambda after: client.jobs.members(job_id, after=after, limit=_MOST_ROWS).data,
            lambda row: row.seq,
        )
    print_rows(found, output, columns=_EVENTS, empty="nothing happened yet")


@app.command(epilog=examples("foundry jobs cancel last"))
def cancel(job: JobArgument, output: OutputOption = Output.TABLE) -> None:
    """Stop a job at its next step; what it has checkpointed stays."""
    with session.client() as client:
        cancelled = client.jobs.cancel(find_job(client, job).id)
        print_already(cancelled)
        _print_summary(session.record(cancelled), output)


@app.command(epilog=examples("foundry jobs resume last"))
def resume(
    job: JobArgument,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="do not follow it")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Continue a failed or cancelled job from its last checkpoint, and follow it."""
    from foundry.cli.jobs.following import follow_job

    with session.client() as client:
        resumed = client.jobs.resume(find_job(client, job).id)
        if detach:
            print_detached(resumed, output)
        else:
            follow_job(client, resumed, output)


def _find_diloco_job(client: Foundry, text: str) -> JobOut:
    job = find_job(client, text)
    if job.kind != "diloco":
        raise Conflict(f"job {job.id} is {job.kind}: only `foundry train diloco` has rounds")
    return job


def _fetch_all(
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


def _print_summary(job: dict[str, object], output: Output) -> None:
    shown = (*_COLUMNS, "cancel_requested")
    print_record(job if output is Output.JSON else {name: job[name] for name in shown}, output)
