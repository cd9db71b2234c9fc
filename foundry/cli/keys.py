"""`foundry keys`: API keys."""

import asyncio
from typing import Annotated, Literal

import typer

from foundry.cli import session
from foundry.cli.console import Output, OutputOption, print_record, print_rows, stderr
from foundry.config import load_settings

app = typer.Typer(add_completion=False, no_args_is_help=True)

_COLUMNS = ("id", "name", "subject", "role", "scopes", "expires_at", "revoked_at")


@app.command(epilog="Example: foundry keys create ci --role member --scope inference:invoke")
def create(
    name: Annotated[str, typer.Argument(help="what the key is for")],
    role: Annotated[Literal["viewer", "member", "admin"], typer.Option()] = "member",
    scope: Annotated[
        list[str] | None, typer.Option(help="permissions it is limited to; may be repeated")
    ] = None,
    expires_in_days: Annotated[int, typer.Option()] = 90,
    subject: Annotated[
        str | None, typer.Option(help="the service account it acts for; default: you")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a key. Its text is printed this once."""
    with session.client() as client:
        key = client.keys.create(
            name,
            role=role,
            scopes=scope or ["*:*"],
            expires_in_days=expires_in_days,
            subject=subject,
        )
    print_record(session.record(key), output)
    _tell_to_keep(output)


@app.command(epilog="Example: foundry keys bootstrap --output json")
def bootstrap(output: OutputOption = Output.TABLE) -> None:
    """Create an installation's first key, straight in its database.

    Refused while an administrator's key works.
    """
    # Loads the database's driver, which no other command needs.
    from foundry.control.bootstrap import create_first_key

    first = asyncio.run(create_first_key(load_settings()))
    print_record({"id": first.id, "key": first.api_key}, output)
    _tell_to_keep(output)


def _tell_to_keep(output: Output) -> None:
    if output is Output.TABLE:
        stderr().print("keep the key now: it is not shown again", style="yellow", markup=False)


@app.command("list", epilog="Example: foundry keys list")
def list_keys(
    limit: session.LimitOption = session.DEFAULT_LIMIT, output: OutputOption = Output.TABLE
) -> None:
    """List keys by their public part."""
    with session.client() as client:
        rows = session.fetched(
            lambda cursor, size: client.keys.list(cursor=cursor, limit=size), limit
        )
    print_rows(rows, output, columns=_COLUMNS)


@app.command(epilog="Example: foundry keys revoke 8f3kq2…")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="the key's public part")],
    yes: session.YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Refuse a key from now on."""
    session.confirm(f"revoke key {key_id}; what uses it stops working", yes)
    with session.client() as client:
        print_record(session.record(client.keys.revoke(key_id)), output)
