"""What commands print: tables for people, JSON for programs, one sentence for errors."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

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

INTERRUPTED = 130
_EXIT_CODES: Mapping[type[FoundryError], int] = {
    InvalidRequest: 2,
    SetupError: 2,
    NotFound: 3,
    Unauthenticated: 4,
    PermissionDenied: 4,
    Unavailable: 5,
    Conflict: 6,
    FoundryError: 1,
}


class Detached(SystemExit):
    """Ends a command that was interrupted and has said what goes on without it."""

    def __init__(self) -> None:
        super().__init__(INTERRUPTED)


class Output(StrEnum):
    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="table for people, json for programs")
]


def stdout() -> Console:
    return Console(soft_wrap=True, highlight=False)


def _plain() -> Console:
    # Cells are data: a bracket in a prompt or an error is no markup.
    return Console(highlight=False, markup=False)


def stderr() -> Console:
    return Console(stderr=True, soft_wrap=True, highlight=False)


def exit_code(error: FoundryError) -> int:
    """2 usage or invalid, 3 not found, 4 not allowed, 5 unavailable, 6 conflict, 1 the rest."""
    return next(_EXIT_CODES[kind] for kind in type(error).__mro__ if kind in _EXIT_CODES)


def print_error(message: str) -> None:
    """One sentence on standard error."""
    stderr().print(f"error: {message}", style="red", markup=False)


def print_json(value: object) -> None:
    """Any pydantic dump, dataclass dict or plain value; dates and ids as strings."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_rows(
    rows: Sequence[Mapping[str, object]],
    output: Output,
    *,
    columns: Sequence[str] | None = None,
    empty: str = "nothing yet",
) -> None:
    """The one contract of `--output`: json prints every field, the table only `columns`."""
    if output is Output.JSON:
        print_json([dict(row) for row in rows])
        return
    if not rows:
        stdout().print(empty, markup=False)
        return
    shown = columns or list(rows[0])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in shown:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in shown))
    _plain().print(table)


def print_record(record: Mapping[str, object], output: Output) -> None:
    if output is Output.JSON:
        print_json(dict(record))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in record.items():
        table.add_row(name.replace("_", " "), _cell(value))
    _plain().print(table)


@contextmanager
def activity(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on standard error whose text the yielded function replaces.

    Where standard error is no terminal, each new text is one line.
    """
    console = stderr()
    if not console.is_terminal:
        yield _line_printer(console)
        return
    with console.status(text) as status:
        yield lambda message: status.update(message)


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


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
