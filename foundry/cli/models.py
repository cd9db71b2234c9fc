"""`foundry models`: versions, aliases, lineage."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol
from uuid import UUID

import typer

from foundry.cli import session
from foundry.cli.advice import print_detached
from foundry.cli.help import examples
from foundry.cli.output.console import (
    Output,
    OutputOption,
    print_json,
    print_note,
    print_record,
    print_rows,
)
from foundry.cli.suggestions import suggest_models
from foundry.errors import Conflict, InvalidRequest, NotFound

if TYPE_CHECKING:
    from foundry.catalog.registry.schemas import LineageOut
    from foundry.sdk import Foundry

app = typer.Typer(add_completion=False, no_args_is_help=True)
alias_app = typer.Typer(add_completion=False, no_args_is_help=True, help="Move aliases")
app.add_typer(alias_app, name="alias")

# As the registry has them; a test compares.
Kind = Literal["base", "adapter", "merged"]
# In order of importance: a narrow terminal shows the first ones.
_LISTED = ("name", "latest", "aliases", "versions", "kind", "architecture", "parameters", "created")
_VERSION = ("reference", "kind", "stage", "relation", "size_bytes", "created_at", "digest")
Name = Annotated[str, typer.Argument(help="the model's", autocompletion=suggest_models)]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="NAME[@VERSION|@ALIAS]",
        help="a version; the name alone: the newest",
        autocompletion=suggest_models,
    ),
]
Alias = Annotated[str, typer.Argument(help="like production or staging")]


@app.command("list", epilog=examples("foundry models list --kind adapter"))
def list_models(
    prefix: Annotated[str | None, typer.Option(help="names that begin so")] = None,
    kind: Annotated[Kind | None, typer.Option(help="only of this kind")] = None,
    limit: session.LimitOption = session.DEFAULT_LIMIT,
    output: OutputOption = Output.TABLE,
) -> None:
    """List models."""
    with session.client() as client:
        rows = session.fetch_rows(
            client.models.list(prefix=prefix, kind=kind, limit=session.choose_page_size(limit)),
            limit,
        )
    if output is Output.TABLE:
        rows = type(rows)(map(_describe_model, rows))
    empty = "no models yet: foundry models import bundled:smollm2-135m"
    if prefix or kind:
        named = f" has a name that begins with {prefix}" if prefix else ""
        empty = f"no {kind or ''} model{named}".replace("  ", " ")
    print_rows(rows, output, columns=_LISTED, empty=empty)


def _describe_model(row: dict[str, Any]) -> dict[str, object]:
    return {
        "name": row["name"],
        "latest": row["latest_version"],
        "aliases": _name_aliases(row["aliases"]),
        "versions": row["version_count"],
        "kind": row["kind"],
        "architecture": row["architecture"],
        "parameters": row["parameter_count"],
        "created": row["created_at"],
    }


def _name_aliases(aliases: Iterable[dict[str, Any]]) -> list[str]:
    return [f"{alias['name']} → {alias['version']}" for alias in aliases]


@app.command(epilog=examples("foundry models show support-bot@production"))
def show(model: Reference, output: OutputOption = Output.TABLE) -> None:
    """Show a model with its aliases, or one version of it."""
    with session.client() as client:
        if "@" in model:
            print_record(session.record(client.models.version(model)), output)
            return
        found = session.record(client.models.get(model))
    if output is Output.TABLE:
        aliases = found["aliases"]
        assert isinstance(aliases, list)
        found["aliases"] = _name_aliases(aliases)
    print_record(found, output)


@app.command(epilog=examples("foundry models versions support-bot"))
def versions(
    name: Name,
    limit: session.LimitOption = session.DEFAULT_LIMIT,
    output: OutputOption = Output.TABLE,
) -> None:
    """List a model's versions, newest first."""
    with session.client() as client:
        rows = session.fetch_rows(
            client.models.versions(name, limit=session.choose_page_size(limit)), limit
        )
    print_rows(rows, output, columns=_VERSION)


@app.command(epilog=examples("foundry models artifacts support-bot@0.1.0"))
def artifacts(model: Reference, output: OutputOption = Output.TABLE) -> None:
    """List the files of a version."""
    with session.client() as client:
        rows = client.models.artifacts(model).data
    session.show_rows(rows, output, ("path", "size", "sha256"))


@app.command(epilog=examples("foundry models metrics support-bot@0.1.0"))
def metrics(model: Reference, output: OutputOption = Output.TABLE) -> None:
    """List what was measured of a version."""
    with session.client() as client:
        rows = client.models.metrics(model).data
    session.show_rows(rows, output, ("name", "step", "value"), "nothing was measured")


@app.command(epilog=examples("foundry models lineage support-bot@0.1.0 --direction up"))
def lineage(
    model: Reference,
    direction: Annotated[Literal["up", "down"], typer.Option(help="ancestors, or heirs")] = "up",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what a version was made from, or what was made from it."""
    with session.client() as client:
        found = client.models.lineage(model, direction=direction)
    if output is Output.JSON:
        print_json(session.record(found))
        return
    print_rows(_list_lineage(found, direction), output)


def _list_lineage(found: LineageOut, direction: str) -> list[dict[str, object]]:
    """A line for each version: what it was made from, with which data, by which job."""
    names = {version.id: version.reference for version in found.versions}
    datasets = {dataset.id: dataset.reference for dataset in found.datasets}
    parents: dict[UUID, list[str]] = {}
    for edge in found.edges:
        named = names.get(edge.parent_id, str(edge.parent_id))
        if named not in (lines := parents.setdefault(edge.child_id, [])):
            lines.append(named)
    ordered = sorted(found.versions, key=lambda version: version.created_at)
    return [
        {
            "version": version.reference,
            "made by": version.relation,
            "from": parents.get(version.id),
            "data": datasets.get(version.dataset_version_id)
            if version.dataset_version_id
            else None,
            "job": version.job_id,
        }
        for version in (ordered if direction == "down" else reversed(ordered))
    ]


@app.command(epilog=examples("foundry models compare support-bot 0.1.0 production"))
def compare(
    name: Name,
    version: Annotated[list[str], typer.Argument(help="two to eight versions or aliases")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Put the metrics of versions side by side."""
    with session.client() as client:
        data = client.models.compare(name, version).data
    if output is Output.JSON:
        print_json(session.records(data))
        return
    names = sorted({metric for column in data for metric in column.metrics})
    rows = [
        {"metric": metric} | {column.version.version: column.metrics.get(metric) for column in data}
        for metric in names
    ]
    print_rows(rows, output, empty="nothing was measured of these versions")


@app.command(
    "import",
    epilog=examples(
        "foundry models import ./SmolLM2-135M-Instruct",
        "foundry models import smollm2-135m bundled:smollm2-135m",
    ),
)
def import_model(
    first: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE|NAME",
            help="a directory, hf:ORG/NAME@REVISION or bundled:smollm2-135m; before it, if you "
            "like, a name",
        ),
    ],
    second: Annotated[
        str | None, typer.Argument(metavar="SOURCE", help="where a name comes first")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="what an adapter was trained from; unset: as it says",
            autocompletion=suggest_models,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="import again")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="submit and return")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Register a model or an adapter that the server can read, and follow the job."""
    from foundry.cli.jobs.following import follow_job

    name, source = _name_and_source(first, second)
    with session.client() as client:
        job = client.models.import_(name, source, base=base, force=force)
        if detach:
            print_detached(job, output)
        else:
            follow_job(client, job, output)


def _name_and_source(first: str, second: str | None) -> tuple[str, str]:
    """`NAME SOURCE`, or only a source. Raises InvalidRequest: it is no directory."""
    from foundry.catalog.registry.schemas import derive_model_name
    from foundry.sdk.jobs import write_source

    source = first if second is None else second
    written = write_source(source)
    path = Path(source).expanduser()
    if written.startswith("file:") and not source.startswith("file:"):
        # An absolute one may exist on the server only.
        if not path.is_absolute() and not path.is_dir():
            raise InvalidRequest(
                f"there is no directory {source} here: name one, like ./my-model, or "
                "hf:ORG/NAME, or bundled:smollm2-135m"
            )
        here = str(path.absolute())
    else:
        here = source.partition(":")[2].partition("@")[0]
    if second is not None:
        return first, written
    if (name := derive_model_name(here)) is None:
        raise InvalidRequest(f"{source} gives the model no name: say one, then the source")
    print_note(f"importing it as {name}")
    return name, written


@app.command(epilog=examples("foundry models deprecate support-bot@0.1.0"))
def deprecate(
    model: Reference,
    undo: Annotated[bool, typer.Option("--undo", help="bring it back")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Hide a version from @latest; it stays usable by number."""
    with session.client() as client:
        version = client.models.set_stage(model, deprecated=not undo)
    print_record(session.record(version), output)


@app.command(epilog=examples("foundry models delete support-bot@0.1.0 --yes"))
def delete(
    model: Reference,
    all_versions: Annotated[
        bool, typer.Option("--all-versions", help="of a model: delete its versions with it")
    ] = False,
    reason: session.ReasonOption = None,
    yes: session.YesOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete one version, or a model without versions. A version's number is never used again."""
    with session.client() as client:
        if "@" not in model:
            _delete_model(client, model, all_versions, reason, yes)
            print_record({"deleted": model}, output)
            return
        name = model.partition("@")[0]
        if all_versions:
            raise Conflict(f"{model} is one version: --all-versions goes with {name} alone")
        version = client.models.version(model)
        session.confirm(f"delete {version.reference} ({version.digest[:12]})", yes)
        # By number: an alias may have moved while the question was open.
        client.models.delete_version(version.reference, reason=reason)
        left = client.models.get(name).version_count
    if not left:
        print_note(f"{name} has no version left: `foundry models delete {name}` removes it")
    print_record({"deleted": version.reference}, output)


def _delete_model(
    client: Foundry, name: str, all_versions: bool, reason: str | None, yes: bool
) -> None:
    found = client.models.get(name)
    count = found.version_count
    if count and not all_versions:
        raise Conflict(
            f"{name} has {_count_versions(count)}: delete them with "
            f"`foundry models delete {name} --all-versions`, or one of them with "
            f"`foundry models delete {name}@VERSION`"
        )
    session.confirm(f"delete {name} with {_count_versions(count)}", yes)
    client.models.delete(name, all_versions=all_versions, reason=reason)


def _count_versions(count: int) -> str:
    return {0: "no version", 1: "1 version"}.get(count, f"{count} versions")


@alias_app.command("set", epilog=examples("foundry models alias set support-bot staging 0.1.0"))
def set_alias(
    name: Name,
    alias: Alias,
    version: Annotated[str, typer.Argument(help="its number, or an alias that points at it")],
    reason: session.ReasonOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Point an alias at a version."""
    with session.client() as client:
        before = {a.name: a for a in client.models.get(name).aliases}.get(alias)
        after = client.models.set_alias(
            name,
            alias,
            version,
            expected_version_id=before.version_id if before else None,
            reason=reason,
        )
    if before is not None and output is Output.TABLE:
        print_note(f"it pointed at {before.version}")
    print_record(session.record(after), output)


@alias_app.command(epilog=examples("foundry models alias rollback support-bot production"))
def rollback(
    name: Name,
    alias: Alias,
    reason: session.ReasonOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Point an alias where it pointed before its last move."""
    with session.client() as client:
        expected = _find_alias(client.models.get(name).aliases, alias)
        moved = client.models.rollback_alias(
            name, alias, expected_version_id=expected, reason=reason
        )
    print_record(session.record(moved), output)


@alias_app.command("delete", epilog=examples("foundry models alias delete support-bot staging -y"))
def delete_alias(
    name: Name, alias: Alias, yes: session.YesOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Remove an alias; its version stays."""
    with session.client() as client:
        expected = _find_alias(client.models.get(name).aliases, alias)
        session.confirm(f"delete the alias {name}@{alias}", yes)
        client.models.delete_alias(name, alias, expected_version_id=expected)
    print_record({"deleted": f"{name}@{alias}"}, output)


class _Alias(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def version_id(self) -> UUID: ...


def _find_alias(aliases: Iterable[_Alias], name: str) -> UUID:
    for alias in aliases:
        if alias.name == name:
            return alias.version_id
    raise NotFound(f"there is no alias {name}: `foundry models show` lists them")
