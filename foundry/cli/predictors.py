"""`foundry budsim`: versions of the predictor, from training to promotion."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry.cli import session
from foundry.cli.console import Output, OutputOption, activity, print_record, print_rows, stdout
from foundry.errors import InvalidRequest, NotFound, SetupError

if TYPE_CHECKING:
    from foundry.engines.budsim.fitting.site import SiteRow

Json = Annotated[bool, typer.Option("--json", help="the same as --output json")]
Version = Annotated[str, typer.Argument(help="foundry budsim models lists them; 0 is the shipped")]
Fitted = Annotated[Path, typer.Argument(help="a directory that `foundry budsim fit` wrote")]

_META = "meta.json"
# The newest windows of a site; older ones weigh next to nothing.
_MOST_OUTCOMES = 5_000
_PAGE = 200


def register(app: typer.Typer) -> None:
    """Add this module's commands to `foundry budsim`."""
    for command, example in (
        (models, "foundry budsim models"),
        (fit, "foundry budsim fit ./fitted --data ./serving-benchmarks --outcomes --version 2"),
        (compare, "foundry budsim compare 0 2 · foundry budsim compare ./fitted ./other"),
        (submit, "foundry budsim register ./fitted"),
        (promote, "foundry budsim promote 2 · back to the shipped one: foundry budsim promote 0"),
        (probe, "foundry budsim probe"),
    ):
        name = "register" if command is submit else None
        app.command(name, epilog=f"Example: {example}")(command)


def models(output: OutputOption = Output.TABLE) -> None:
    """List the versions of the predictor; the active one answers."""
    with session.client() as client:
        rows = session.records(client.outcomes.models().data)
        due = client.outcomes.list(limit=1).refit_due
    columns = ("version", "status", "created_at", "promoted_at", "reasons")
    print_rows(rows, output, columns=columns)
    if due and output is Output.TABLE:
        stdout().print("a refit is due: foundry budsim fit ./fitted --outcomes", markup=False)


def promote(version: Version, output: OutputOption = Output.TABLE) -> None:
    """Make a version of the predictor the active one; an older one rolls back."""
    with session.client() as client:
        print_record(session.record(client.outcomes.promote(version)), output)


def submit(directory: Fitted, output: OutputOption = Output.TABLE) -> None:
    """Upload a fitted predictor; it becomes active if it is better, else it stays a shadow."""
    from foundry.engines.budsim import packing, promotion

    packed, meta = packing.pack(directory), _meta(directory)
    with session.client() as client:
        digest = client.outcomes.upload_artifact(packed).digest
        row = client.outcomes.register_model(
            meta["version"],
            digest,
            promotion.splits(meta["cv"]),
            site_cv=meta["card"].get("site_cv", {}),
        )
    print_record(session.record(row), output)


def fit(
    out: Annotated[Path, typer.Argument(help="directory for the new model")],
    data: Annotated[
        Path | None, typer.Option(help="measured benchmarks; default: FOUNDRY_BUDSIM_DATA")
    ] = None,
    outcomes: Annotated[
        bool, typer.Option("--outcomes", help="learn from this site's measured windows as well")
    ] = False,
    version: Annotated[
        str | None, typer.Option(help="name of the new version; needed with --outcomes")
    ] = None,
) -> None:
    """Train the predictor; the same data give the same bytes."""
    from foundry.config import load_settings

    directory = data or load_settings().budsim_data
    if directory is None:
        raise SetupError("which data? Give --data, or set FOUNDRY_BUDSIM_DATA")
    if not directory.is_dir():
        raise NotFound(f"there is no directory {directory}")
    if outcomes and version is None:
        raise InvalidRequest("a model of this site needs a name of its own: give --version")
    from foundry.engines.budsim import fitting
    from foundry.engines.budsim.artifact import SHIPPED

    rows = _site_rows() if outcomes else []
    with activity("fitting") as say:
        found = fitting.fit(directory, out, version or SHIPPED, say, outcomes=rows)
    stdout().print(f"the model is in {out}: compare it with `foundry budsim compare`", markup=False)
    if outcomes:
        print_rows(_site_table(found.card), Output.TABLE, empty="no window could be learnt from")
        stdout().print(f"next: foundry budsim register {out}", markup=False)


def compare(
    before: Annotated[str, typer.Argument(help="a version, or a directory with a fitted model")],
    after: Annotated[str, typer.Argument(help="the one to judge")],
    json: Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Compare two models, split by split of the grouped cross-validation."""
    tables = [_cv(name) for name in (before, after)]
    rows = [
        {"split": split, "before": old, "after": new, "change": _change(old, new)}
        for split in sorted(tables[0].keys() | tables[1].keys())
        for old, new in [(tables[0].get(split), tables[1].get(split))]
    ]
    print_rows(rows, Output.JSON if json else output, empty="neither has cross-validation scores")


def probe(output: OutputOption = Output.TABLE) -> None:
    """Measure a node without GPUs; predictions of CPU endpoints use it from then on."""
    with session.client() as client, activity("measuring"):
        found = client.budsim.probe()
    row = {**found.measured, "gpu": found.gpu, "measured_at": found.measured_at.isoformat()}
    print_record(row, output)


def _site_rows() -> list[SiteRow]:
    from foundry.engines.budsim.fitting.site import SiteRow
    from foundry.sdk import each

    with session.client() as client, activity("reading outcomes"):
        found = each(lambda cursor: client.outcomes.list(cursor=cursor, limit=_PAGE))
        return [
            SiteRow.of(outcome.model_dump(mode="json")) for outcome in islice(found, _MOST_OUTCOMES)
        ]


def _site_table(card: Mapping[str, Any]) -> list[dict[str, object]]:
    return [
        {"deployment": name, "error now, %": old, "error then, %": new, "change": _change(old, new)}
        for name, (old, new) in card.get("site_cv", {}).items()
    ]


def _meta(directory: Path) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads((directory / _META).read_text())
    return found


def _cv(name: str) -> dict[str, float]:
    from foundry.engines.budsim import promotion

    directory = Path(name)
    if (directory / _META).is_file():
        return promotion.splits(_meta(directory)["cv"])
    with session.client() as client:
        for row in client.outcomes.models().data:
            if row.version == name:
                return dict(row.cv)
    raise NotFound(f"{name} is neither a version of the predictor nor a directory with {_META}")


def _change(old: float | None, new: float | None) -> str:
    return "-" if not old or new is None else f"{new / old - 1:+.1%}"
