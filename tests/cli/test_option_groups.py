"""Options that several commands share."""

from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from foundry.cli.option_groups import add_options

SPEED = {"slow": Annotated[bool | None, typer.Option("--slow/--fast", help="take time")]}
SIZE = {"depth": Annotated[int | None, typer.Option(help="of the hole")]}

app = typer.Typer()


@app.command()
@add_options(SPEED, SIZE, before="output")
def dig(place: str, output: str = "table", **how: Any) -> None:
    """Dig a hole."""
    typer.echo(f"{place} {output} {sorted(how.items())}")


@pytest.mark.parametrize(
    ("typed", "printed"),
    [
        (["here"], "here table [('depth', None), ('slow', None)]"),
        (["here", "--fast", "--depth", "3"], "here table [('depth', 3), ('slow', False)]"),
        (["here", "--output", "json"], "here json [('depth', None), ('slow', None)]"),
    ],
)
def test_added_options_are_collected(typed: list[str], printed: str) -> None:
    assert CliRunner().invoke(app, typed).stdout.strip() == printed


def test_added_options_stand_where_they_are_put_and_are_checked() -> None:
    shown = CliRunner().invoke(app, ["--help"]).stdout
    assert shown.index("--slow") < shown.index("--depth") < shown.index("--output")
    assert CliRunner().invoke(app, ["here", "--depth", "x"]).exit_code == 2
