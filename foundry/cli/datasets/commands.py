"""`foundry datasets`: rows to train on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from foundry.catalog.datasets.formats import JSONL, JSONL_GZIP, JSONL_ZSTD, PARQUET
from foundry.cli import session
from foundry.cli.datasets.rows import describe_row
from foundry.cli.help import examples
from foundry.cli.output.console import (
    Output,
    OutputOption,
    print_json,
    print_note,
    print_record,
    print_rows,
    show_activity,
)
from foundry.cli.suggestions import suggest_datasets
from foundry.errors import NotFound

if TYPE_CHECKING:
    from foundry.catalog.datasets.schemas import DatasetAdded, DatasetVersionOut
    from foundry.sdk import Foundry

app = typer.Typer(add_completion=False, no_args_is_help=True)

# The most important first: a narrow terminal drops the last ones.
_LIST = ("name", "latest", "train_rows", "eval_rows", "versions", "kind", "added_at")
_VERSIONS = (
    "reference",
    "train_rows",
    "eval_rows",
    "created_at",
    "kind",
    "duplicate_rows",
    "bad_rows",
    "created_by",
    "digest",
)
_VERSION = (
    "reference",
    "kind",
    "train_rows",
    "eval_rows",
    "duplicate_rows",
    "bad_rows",
    "file",
    "options",
    "digest",
    "created_by",
    "created_at",
)
_DELETION = ("deleted_at", "deleted_by", "delete_reason")
# What is shorter has been sent before anybody wonders.
_LARGE_BYTES = 8 * 2**20
_PAGE = 200
Name = Annotated[str, typer.Argument(help="the dataset's", autocompletion=suggest_datasets)]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="NAME[@NUMBER]",
        help="a version; the name alone: the newest",
        autocompletion=suggest_datasets,
    ),
]


@app.command(epilog=examples("foundry datasets add support data/support.jsonl"))
def add(
    name: Name,
    file: Annotated[
        Path,
        typer.Argument(
            help=f"one JSON object a line ({JSONL.suffix}, or packed: {JSONL_GZIP.suffix}, "
            f"{JSONL_ZSTD.suffix}), or {PARQUET.suffix}; "
            "rows have messages, or prompt and completion"
        ),
    ],
    eval_fraction: Annotated[
        float, typer.Option(help="share of prompts held out; 0: none, so nothing measures a model")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="of the split")] = 0,
    max_bad_fraction: Annotated[
        float, typer.Option(help="share of invalid rows that may be left out")
    ] = 0.0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check a file and store it as a new version. The same bytes are the same version."""
    with session.client() as client, _show_upload(file) as show:
        version = client.datasets.add(
            name,
            file,
            eval_fraction=eval_fraction,
            seed=seed,
            max_bad_fraction=max_bad_fraction,
            on_sent=show,
        )
    _print_notes(version)
    _print_version(session.record(version), output)


@app.command("list", epilog=examples("foundry datasets list --output json"))
def list_datasets(
    limit: session.LimitOption = session.DEFAULT_LIMIT, output: OutputOption = Output.TABLE
) -> None:
    """List datasets with the rows of their newest versions."""
    with session.client() as client:
        rows = session.fetch_rows(
            client.datasets.list(limit=session.choose_page_size(limit)), limit
        )
    if output is Output.TABLE:
        # In place: the list itself says whether there are more.
        rows[:] = map(_flatten_dataset, rows)
    print_rows(rows, output, columns=_LIST, empty="no datasets yet: foundry datasets add NAME FILE")


@app.command(epilog=examples("foundry datasets versions support"))
def versions(
    name: Name,
    limit: session.LimitOption = session.DEFAULT_LIMIT,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the versions of a dataset, newest first."""
    with session.client() as client:
        rows = session.fetch_rows(
            client.datasets.versions(name, limit=session.choose_page_size(limit)), limit
        )
    print_rows(rows, output, columns=_VERSIONS, empty=f"every version of {name} was deleted")


@app.command(epilog=examples("foundry datasets show support@1"))
def show(dataset: Reference, output: OutputOption = Output.TABLE) -> None:
    """Show one version; without a number the newest. Of a deleted one the record is left."""
    with session.client() as client:
        _print_version(session.record(client.datasets.get(dataset)), output)


@app.command(epilog=examples("foundry datasets rows support@1 --split eval --limit 3"))
def rows(
    dataset: Reference,
    split: Annotated[
        Literal["train", "eval"], typer.Option(help="what is trained on, or what is held out")
    ] = "train",
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=100, help="at most so many")
    ] = 10,
    output: OutputOption = Output.TABLE,
) -> None:
    """Print the first rows of a split."""
    with session.client() as client:
        data = client.datasets.rows(dataset, split=split, limit=limit).data
    if output is Output.JSON:
        print_json(data)
        return
    if not data:
        print_rows([], output, empty=f"the {split} split of {dataset} is empty")
    for place, row in enumerate(data, start=1):
        typer.echo(f"{'' if place == 1 else chr(10)}row {place}")
        typer.echo(describe_row(row))


@app.command(epilog=examples("foundry datasets delete support@1 --reason 'bad labels' --yes"))
def delete(
    dataset: Reference,
    force: Annotated[
        bool, typer.Option("--force", help="also if a model was trained on it")
    ] = False,
    reason: session.ReasonOption = None,
    yes: session.YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete one version, or without a number the whole dataset. Numbers are never used again.

    A record of each version stays, so that the lineage of models keeps its names; the rows go.
    """
    with session.client() as client:
        if "@" in dataset:
            version = client.datasets.get(dataset)
            session.confirm(f"delete {version.reference} ({_count_rows(version)} rows)", yes)
            # By number: a newer one may have come while the question was open.
            client.datasets.delete_version(version.reference, force=force, reason=reason)
            deleted = version.reference
        else:
            session.confirm(_ask_deletion(client, dataset), yes)
            client.datasets.delete(dataset, force=force, reason=reason)
            deleted = dataset
    print_record({"deleted": deleted}, output)


@contextmanager
def _show_upload(file: Path) -> Iterator[Callable[[int], None] | None]:
    """Says how far the upload of a large file is."""
    size = os.path.getsize(file) if os.path.isfile(file) else 0
    if size < _LARGE_BYTES:
        yield None
        return
    stage = f"uploading {file.name} of {size / 1e6:.0f} MB"
    with show_activity(stage) as say:
        say(stage)
        last = -1

        def show(sent: int) -> None:
            nonlocal last
            percent = sent * 100 // size
            if percent != last:
                say(f"{stage}, {percent} % sent" if sent < size else "checking the rows")
                last = percent

        yield show


def _print_notes(version: DatasetAdded) -> None:
    """What the numbers alone do not say."""
    if not version.created:
        print_note(
            f"{version.reference} holds the same rows, split alike, since "
            f"{version.created_at:%Y-%m-%d %H:%M} UTC: nothing new was stored"
        )
    if version.kind == "prompt_completion":
        print_note(
            "prompts are trained as they stand, for /v1/completions: rows with messages teach a "
            "model what it answers in a chat"
        )
    if version.eval_rows == 0:
        print_note("no rows are held out: training on it measures no eval loss")


def _flatten_dataset(row: Mapping[str, object]) -> dict[str, object]:
    latest = row["latest"]
    assert isinstance(latest, dict)
    shown = {name: latest[name] for name in ("train_rows", "eval_rows", "kind")}
    return {**row, **shown, "latest": latest["reference"], "added_at": latest["created_at"]}


def _count_rows(version: DatasetVersionOut) -> int:
    return version.train_rows + version.eval_rows


def _ask_deletion(client: Foundry, name: str) -> str:
    page = client.datasets.versions(name, limit=_PAGE)
    if not page.data:
        raise NotFound(f"every version of {name} was deleted already")
    if len(page.data) == 1:
        return f"delete the dataset {name} ({_count_rows(page.data[0])} rows)"
    count = f"more than {_PAGE}" if page.next_cursor else f"all {len(page.data)}"
    return f"delete {count} versions of {name}"


def _print_version(version: dict[str, object], output: Output) -> None:
    if output is Output.JSON:
        print_record(version, output)
        return
    options = dict(version["options"]) if isinstance(version["options"], dict) else {}
    file = options.pop("filename", None)
    said = ", ".join(
        f"{name}={'+'.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in options.items()
    )
    shown = {**version, "file": file, "options": said}
    fields = _VERSION if version["deleted_at"] is None else (*_VERSION, *_DELETION)
    print_record({name: shown[name] for name in fields}, output)
