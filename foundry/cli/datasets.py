"""`foundry datasets`: rows to train on."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from foundry.cli import session
from foundry.cli.console import Output, OutputOption, print_json, print_record, print_rows
from foundry.errors import InvalidRequest

app = typer.Typer(add_completion=False, no_args_is_help=True)

_VERSION = ("reference", "kind", "train_rows", "eval_rows", "duplicate_rows", "bad_rows", "digest")
Reference = Annotated[str, typer.Argument(metavar="NAME[@NUMBER]")]


def _parsed(text: str) -> tuple[str, int | None]:
    name, selector = session.reference(text)
    if selector == "latest":
        return name, None
    if not selector.isascii() or not selector.isdigit() or int(selector) == 0:
        raise InvalidRequest(f"{text!r} is not a dataset: use name or name@number")
    return name, int(selector)


@app.command(epilog="Example: foundry datasets add support data/support.jsonl")
def add(
    name: str,
    file: Annotated[Path, typer.Argument(help=".jsonl, .jsonl.gz, .jsonl.zst or .parquet")],
    eval_fraction: Annotated[float, typer.Option(help="share of prompts held out")] = 0.1,
    seed: Annotated[int, typer.Option(help="of the split")] = 0,
    max_bad_fraction: Annotated[
        float, typer.Option(help="share of invalid rows that may be left out")
    ] = 0.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check a file and store it as a new version. The same bytes are the same version."""
    with session.client() as client:
        version = client.datasets.add(
            name,
            file,
            eval_fraction=eval_fraction,
            seed=seed,
            max_bad_fraction=max_bad_fraction,
        )
    _print_version(session.record(version), output)


@app.command("list", epilog="Example: foundry datasets list --output json")
def list_datasets(
    limit: session.LimitOption = session.DEFAULT_LIMIT, output: OutputOption = Output.TABLE
) -> None:
    """List datasets."""
    with session.client() as client:
        rows = session.fetched(
            lambda cursor, size: client.datasets.list(cursor=cursor, limit=size), limit
        )
    print_rows(
        rows,
        output,
        columns=("name", "created_by", "created_at"),
        empty="no datasets yet: foundry datasets add NAME FILE",
    )


@app.command(epilog="Example: foundry datasets versions support")
def versions(
    name: str,
    limit: session.LimitOption = session.DEFAULT_LIMIT,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the versions of a dataset."""
    with session.client() as client:
        rows = session.fetched(
            lambda cursor, size: client.datasets.versions(name, cursor=cursor, limit=size), limit
        )
    print_rows(rows, output, columns=_VERSION)


@app.command(epilog="Example: foundry datasets show support@1")
def show(dataset: Reference, output: OutputOption = Output.TABLE) -> None:
    """Show one version; without a number the newest."""
    name, number = _parsed(dataset)
    with session.client() as client:
        _print_version(session.record(client.datasets.get(name, number)), output)


@app.command(epilog="Example: foundry datasets rows support@1 --split eval --limit 3")
def rows(
    dataset: Reference,
    split: Annotated[Literal["train", "eval"], typer.Option()] = "train",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100)] = 10,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the first rows of a split."""
    name, number = _parsed(dataset)
    with session.client() as client:
        data = client.datasets.rows(name, number, split=split, limit=limit).data
    if output is Output.JSON:
        print_json(data)
        return
    print_rows([_readable(row) for row in data], output, empty=f"the {split} split is empty")


def _readable(row: dict[str, object]) -> dict[str, object]:
    """A chat as lines of `role: text`; other rows as they are."""
    messages = row.get("messages")
    if not isinstance(messages, list):
        return row
    lines = (f"{message.get('role')}: {message.get('content')}" for message in messages)
    return {"messages": "\n".join(lines)}


def _print_version(version: dict[str, object], output: Output) -> None:
    shown = (*_VERSION, "options", "created_by", "created_at")
    if output is Output.TABLE:
        version = {name: version[name] for name in shown}
    print_record(version, output)
