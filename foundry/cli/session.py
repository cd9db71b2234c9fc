"""The client behind every command that talks to a server."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry.cli.output.console import FirstRows, Output, print_note, print_rows
from foundry.cli.output.exit_codes import ExitCode
from foundry.errors import InvalidRequest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from foundry.sdk import Foundry, Page

LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, help="at most so many")]
ReasonOption = Annotated[str | None, typer.Option(help="kept in the audit trail")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="do not ask")]

DEFAULT_LIMIT = 100
# The server gives no more at once.
_MAX_PAGE_ROWS = 200


def client() -> Foundry:
    """A client for FOUNDRY_CLIENT__URL and FOUNDRY_CLIENT__API_KEY, else for the local stack."""
    # The SDK loads every schema: only a command that runs pays for it.
    from foundry.config import load_settings
    from foundry.sdk import Foundry

    return Foundry.from_settings(load_settings())


def choose_page_size(limit: int) -> int:
    """Rows to ask for at once, to show `limit` of them and know whether there are more."""
    return min(limit + 1, _MAX_PAGE_ROWS)


def fetch_rows(page: Page[Any], limit: int) -> list[dict[str, object]]:
    """The first rows of a list, from as many pages as they need: `FirstRows`, if more follow."""
    found = list(islice(page, limit + 1))
    rows = records(found[:limit])
    return FirstRows(rows) if len(found) > limit else rows


def record(model: BaseModel) -> dict[str, object]:
    return model.model_dump(mode="json")


def records(models: Iterable[BaseModel]) -> list[dict[str, object]]:
    return [record(model) for model in models]


def show_rows(
    rows: Iterable[BaseModel], output: Output, columns: tuple[str, ...], empty: str = "nothing yet"
) -> None:
    print_rows(records(rows), output, columns=columns, empty=empty)


def can_ask() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm(what: str, yes: bool) -> None:
    """Ask before something is lost or interrupted.

    Raises:
        InvalidRequest: nobody is there to be asked, and `--yes` was not given.
        typer.Exit: the answer was no.
    """
    if yes:
        return
    if not can_ask():
        raise InvalidRequest(f"there is no terminal to ask on: {what}? --yes does it")
    if not typer.confirm(f"{what}?", err=True):
        print_note("nothing was changed")
        raise typer.Exit(ExitCode.FAILED)
