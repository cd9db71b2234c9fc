"""What commands print: tables for people, JSON for programs, one sentence for errors."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from foundry.cli.output.exit_codes import ExitCode
from foundry.cli.output.progress import make_columns
from foundry.cli.output.tables import Column, print_columns, print_fields, print_table
from foundry.errors import (
    Conflict,
    FoundryError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    SetupError,
    Unauthenticated,
    Unavailable,
)

_EXIT_CODES: Mapping[type[FoundryError], ExitCode] = {
    InvalidRequest: ExitCode.INVALID,
    SetupError: ExitCode.INVALID,
    NotFound: ExitCode.NOT_FOUND,
    Unauthenticated: ExitCode.NOT_ALLOWED,
    PermissionDenied: ExitCode.NOT_ALLOWED,
    Unavailable: ExitCode.UNAVAILABLE,
    Conflict: ExitCode.CONFLICT,
    FoundryError: ExitCode.FAILED,
}


class Detached(SystemExit):
    """Ends a command that was interrupted and has said what goes on without it."""

    def __init__(self) -> None:
        super().__init__(ExitCode.INTERRUPTED)


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="table for people, json for programs")
]


def stdout() -> Console:
    return Console(soft_wrap=True, highlight=False)


def stderr() -> Console:
    return Console(stderr=True, soft_wrap=True, highlight=False)


def choose_exit_code(error: FoundryError) -> ExitCode:
    """The exit code of an error: that of the nearest kind above it."""
    return next(_EXIT_CODES[kind] for kind in type(error).__mro__ if kind in _EXIT_CODES)


def print_error(message: str) -> None:
    """One sentence on standard error."""
    stderr().print(f"error: {message}", style="red", markup=False)


def print_note(message: str) -> None:
    """What helps to read an answer, on standard error."""
    stderr().print(message, style="dim", markup=False)


def print_warning(message: str) -> None:
    """What a reader must know before going on, on standard error."""
    stderr().print(message, style="yellow", markup=False)


def print_next(*commands: str, output: Output) -> None:
    """What to type now, in this order, on standard error; a program is told nothing."""
    if output is Output.TABLE:
        for at, command in enumerate(commands):
            stderr().print(f"{'next: ' if at == 0 else '      '}{command}", markup=False)


def print_json(value: object) -> None:
    """Any pydantic dump, dataclass dict or plain value; dates and ids as strings."""
    typer.echo(json.dumps(value, indent=2, default=str))


class FirstRows(list[dict[str, object]]):
    """The first rows of a list that has more."""


def print_rows(
    rows: Sequence[Mapping[str, object]],
    output: Output,
    *,
    columns: Sequence[str] | None = None,
    empty: str = "nothing yet",
) -> None:
    """The one contract of `--output`: json prints every field, the table only `columns`.

    Args:
        columns: the most important first: on a narrow terminal the last ones are left out.
    """
    if output is Output.JSON:
        print_json([dict(row) for row in rows])
        return
    if not rows:
        stdout().print(empty, markup=False)
        return
    hidden = print_table(stdout(), rows, columns or list(rows[0]))
    _note_left_out([name.replace("_", " ") for name in hidden])
    if isinstance(rows, FirstRows):
        print_note(f"these are the first {len(rows)}: --limit shows more")


def show_columns(columns: Sequence[Column]) -> None:
    """Print cells that are written already, and name those that have no room."""
    _note_left_out(print_columns(stdout(), columns))


def print_record(record: Mapping[str, object], output: Output) -> None:
    if output is Output.JSON:
        print_json(dict(record))
    else:
        print_fields(stdout(), record)


@contextmanager
def show_activity(text: str) -> Iterator[Callable[[str], None]]:
    """Shows on standard error that work goes on; the yielded function replaces the text.

    Where standard error is no terminal, each new stage is one line.
    """
    console = stderr()
    if not console.is_terminal:
        yield _line_printer(console)
        return
    with Progress(*make_columns(), console=console, transient=True) as view:
        task = view.add_task(text, total=None)
        yield lambda message: view.update(task, description=message)


def _note_left_out(headings: Sequence[str]) -> None:
    if headings:
        print_note(f"no room for {', '.join(headings)}: --output json has them")


def _line_printer(console: Console) -> Callable[[str], None]:
    last = ""

    def show(message: str) -> None:
        nonlocal last
        # Counters tick several times a second; a log wants each stage once.
        stage = message.partition(",")[0]
        if stage != last:
            console.print(message, markup=False)
            last = stage

    return show
