"""`foundry keys`: API keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from foundry.cli import session
from foundry.cli.help import examples
from foundry.cli.output.console import Output, OutputOption, print_record, print_rows, print_warning
from foundry.cli.references import find_key
from foundry.cli.suggestions import suggest_keys
from foundry.config import load_settings
from foundry.errors import FoundryError
from foundry.governance.identity.schemas import DEFAULT_DAYS, MAX_DAYS

if TYPE_CHECKING:
    from foundry.sdk import Foundry

app = typer.Typer(add_completion=False, no_args_is_help=True)

_COLUMNS = ("id", "name", "state", "role", "may", "expires_at", "subject")
# No label has more than seven letters: beside a longer one a key does not fit into 80 columns.
_CREATED = ("key", "id", "name", "subject", "role", "may", "expires")
_REVOKED = ("id", "name", "subject", "role", "state", "revoked_at")


@app.command(
    epilog=examples(
        "foundry keys create ci --scope inference:invoke",
        "foundry keys create looks --role viewer --expires-in-days 30 --output json",
    )
)
def create(
    name: Annotated[str, typer.Argument(help="what the key is for")],
    role: Annotated[
        Literal["viewer", "member", "admin"], typer.Option(help="what it may do at most")
    ] = "member",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="permissions it is limited to, like jobs:*; may be repeated"),
    ] = None,
    expires_in_days: Annotated[
        int, typer.Option(min=1, max=MAX_DAYS, help="from now")
    ] = DEFAULT_DAYS,
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
        url = client.url
    record = session.record(key)
    if output is Output.JSON:
        print_record(record, output)
        return
    print_record(_choose_fields(record, _CREATED), output)
    if key.namesakes:
        print_warning(f"older keys named {key.name} work as well: {', '.join(key.namesakes)}")
    _tell_to_keep(key.key, url)


@app.command(epilog=examples("foundry keys bootstrap"))
def bootstrap(output: OutputOption = Output.TABLE) -> None:
    """Create an installation's first key, straight in its database.

    Refused while an administrator's key works.
    """
    # Loads the database's driver, which no other command needs.
    from foundry.control.bootstrap import create_first_key

    settings = load_settings()
    first = asyncio.run(create_first_key(settings))
    print_record({"key": first.api_key, "id": first.id}, output)
    if output is Output.TABLE:
        _tell_to_keep(first.api_key, settings.client.url or settings.base_url)


@app.command("list", epilog=examples("foundry keys list"))
def list_keys(
    limit: session.LimitOption = session.DEFAULT_LIMIT, output: OutputOption = Output.TABLE
) -> None:
    """List keys, newest first; an administrator sees everybody's."""
    with session.client() as client:
        rows = session.fetch_rows(client.keys.list(limit=session.choose_page_size(limit)), limit)
    if output is Output.TABLE:
        for row in rows:
            row["may"] = _tell_permissions(row)
    print_rows(rows, output, columns=_COLUMNS, empty="no keys yet: foundry keys create NAME")


@app.command(epilog=examples("foundry keys revoke ci", "foundry keys revoke pDKGA7lmjZWL --yes"))
def revoke(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="KEY",
            help="its id, a beginning of that, or its name",
            autocompletion=suggest_keys,
        ),
    ],
    yes: session.YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Refuse a key from now on. The last administrator's key cannot be revoked."""
    with session.client() as client:
        found = find_key(client, reference)
        if not yes:
            own = ", the one that you use now" if _is_own(client, found.id) else ""
            session.confirm(
                f"revoke the key {found.id} ({found.name}){own}; what uses it stops working", yes
            )
        record = session.record(client.keys.revoke(found.id))
    print_record(record if output is Output.JSON else _choose_fields(record, _REVOKED), output)


def _is_own(client: Foundry, key_id: str) -> bool:
    try:
        return client.whoami().key_id == key_id
    except FoundryError:
        # It only words a question; what is wrong comes up again in the answer to the command.
        return False


def _choose_fields(record: Mapping[str, object], names: tuple[str, ...]) -> dict[str, object]:
    """What a person looks for, and with `may` what the key's role and scopes come to."""
    told = {**record, "may": _tell_permissions(record), "expires": record["expires_at"]}
    return {name: told[name] for name in names}


def _tell_permissions(record: Mapping[str, object]) -> object:
    return record["permissions"] if record["limited"] else f"all of {record['role']}"


def _tell_to_keep(key: str, url: str) -> None:
    head = key.rpartition("_")[0]
    print_warning("keep the key now: it is not shown again; with it elsewhere:")
    print_warning(f"  export FOUNDRY_CLIENT__URL={url} FOUNDRY_CLIENT__API_KEY={head}_…")
    print_warning(f"  OpenAI's clients: base_url={url}/v1, and the key as api_key")
