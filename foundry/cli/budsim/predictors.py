"""Versions of the predictor, from training to promotion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry.cli import session
from foundry.cli.budsim import options
from foundry.cli.budsim.inputs import read_json_object
from foundry.cli.output.console import (
    Output,
    OutputOption,
    print_next,
    print_note,
    print_record,
    print_rows,
    print_warning,
    show_activity,
    stdout,
)
from foundry.errors import Conflict, InvalidRequest, NotFound, SetupError

if TYPE_CHECKING:
    from foundry.engines.budsim.fitting.site import SiteRow
    from foundry.serving.outcomes.schemas import ModelOut

Version = Annotated[str, typer.Argument(help="foundry budsim models lists them; 0 is the shipped")]
Fitted = Annotated[Path, typer.Argument(help="a directory that `foundry budsim fit` wrote")]

_META = "meta.json"
_PREDICTOR = "a predictor that `foundry budsim fit` wrote"
# The model that comes with Foundry; every server has it.
_SHIPPED = "0"
# As the server accepts it.
_VERSION = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# The newest windows of a site; older ones weigh next to nothing.
_MOST_OUTCOMES = 5_000
_PAGE = 200


def models(output: OutputOption = Output.TABLE) -> None:
    """List the versions of the predictor; the active one answers."""
    with session.client() as client:
        rows = session.records(client.outcomes.models().data)
        due = client.outcomes.list(limit=1).refit_due
    columns = ("version", "status", "created_at", "promoted_at", "reasons")
    if output is Output.TABLE:
        # It has no date of its own: it is as old as this Foundry.
        rows = [
            row | {"created_at": "with Foundry"} if row["version"] == _SHIPPED else row
            for row in rows
        ]
    print_rows(rows, output, columns=columns)
    if due and output is Output.TABLE:
        print_warning(f"a refit is due: {advise_refit()}")


def promote(version: Version, output: OutputOption = Output.TABLE) -> None:
    """Make a version of the predictor the active one; an older one rolls back."""
    with session.client() as client:
        for row in client.outcomes.models().data:
            if row.version == version and row.status == "active":
                raise Conflict(f"version {version} is the active one already")
        print_record(session.record(client.outcomes.promote(version)), output)


def submit(directory: Fitted, output: OutputOption = Output.TABLE) -> None:
    """Upload a fitted predictor; it becomes active if it is better, else it stays a shadow."""
    from foundry.engines.budsim import packing

    packed, meta = packing.pack(directory), _read_meta(directory)
    card = meta.get("card")
    with session.client() as client, show_activity("uploading the predictor"):
        digest = client.outcomes.upload_artifact(packed).digest
        for known in client.outcomes.models().data:
            if (known.version, known.digest) == (meta.get("version"), digest):
                raise Conflict(f"version {known.version} is registered already: {known.status}")
        row = client.outcomes.register_model(
            str(meta.get("version")),
            digest,
            _list_scores(directory, meta),
            site_cv=card.get("site_cv", {}) if isinstance(card, dict) else {},
        )
    print_record(session.record(row), output)
    if output is Output.TABLE:
        print_note(_describe_standing(row))


def fit(
    out: Annotated[Path, typer.Argument(help="directory for the new model")],
    data: Annotated[
        Path | None, typer.Option(help="measured benchmarks; default: FOUNDRY_BUDSIM_DATA")
    ] = None,
    outcomes: Annotated[
        bool, typer.Option("--outcomes", help="learn from this site's measured windows as well")
    ] = False,
    version: Annotated[
        str | None,
        typer.Option(help="its name; default with --outcomes: site-, the day and the time"),
    ] = None,
) -> None:
    """Train the predictor; the same data give the same bytes. It takes minutes."""
    from foundry.engines.budsim.artifact import SHIPPED

    directory = _find_data(data)
    if out.exists() and not out.is_dir():
        raise InvalidRequest(f"{out} is a file: name a directory for the model")
    chosen = version or (f"site-{datetime.now(UTC):%Y%m%d-%H%M}" if outcomes else SHIPPED)
    _check_version(chosen)
    rows = _read_site_rows() if outcomes else []
    from foundry.engines.budsim import fitting

    with show_activity("fitting") as say:
        found = fitting.fit(directory, out, chosen, say, outcomes=rows)
    stdout().print(f"version {chosen} is in {out}", markup=False)
    if outcomes:
        print_rows(_tabulate_site(found.card), Output.TABLE, empty="it learnt nothing new here")
    steps = [f"foundry budsim compare {_SHIPPED} {out}"]
    if outcomes:
        steps.append(f"foundry budsim register {out}")
    print_next(*steps, output=Output.TABLE)


def compare(
    context: typer.Context,
    before: Annotated[str, typer.Argument(help="a version, or a directory with a fitted model")],
    after: Annotated[str, typer.Argument(help="the one to judge")],
    json: options.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Compare two models: median errors in %, split by split of the grouped cross-validation."""
    shown = options.choose_output(context, json, output)
    if before == after:
        raise Conflict(f"{before} is compared with itself: name two models")
    old, new = (_read_scores(name) for name in (before, after))
    if not old.keys() & new.keys():
        raise Conflict(
            f"{before} and {after} have no split of the cross-validation in common: "
            "there is nothing to compare"
        )
    rows = [
        {
            "split": split,
            "before": old.get(split),
            "after": new.get(split),
            "change": _write_change(old.get(split), new.get(split)),
        }
        for split in sorted(old.keys() | new.keys())
    ]
    if shown is Output.TABLE:
        titles = {"before": "before, %", "after": "after, %"}
        rows = [{titles.get(key, key): value for key, value in row.items()} for row in rows]
    print_rows(rows, shown)


def advise_refit() -> str:
    """The command that refits here."""
    from foundry.config import load_settings

    if load_settings().budsim_data is not None:
        return "foundry budsim fit ./fitted --outcomes"
    return f"foundry budsim fit ./fitted --outcomes --data DIRECTORY, with {_describe_data()} in it"


def _describe_data() -> str:
    from foundry.engines.budsim.fitting.rows import PILOT, SERVING

    return f"{SERVING} and {PILOT}"


def _find_data(given: Path | None) -> Path:
    """The directory of measured benchmarks.

    Raises SetupError: nobody said where; NotFound: nothing is there.
    """
    from foundry.config import load_settings

    directory = given or load_settings().budsim_data
    if directory is None:
        raise SetupError(
            "which benchmarks? Give --data DIRECTORY, or set FOUNDRY_BUDSIM_DATA: a directory "
            f"with {_describe_data()}"
        )
    if not directory.is_dir():
        raise NotFound(f"there is no directory {directory}")
    return directory


def _check_version(version: str) -> None:
    if not _VERSION.fullmatch(version):
        raise InvalidRequest(
            f"--version {version}: at most 64 of a-z, 0-9, dot, dash and underscore, beginning "
            "with a letter or a digit"
        )
    if version == _SHIPPED:
        raise Conflict(f"version {_SHIPPED} is the shipped model: choose another version")


def _read_site_rows() -> list[SiteRow]:
    """What deployments of this site have measured.

    Raises Conflict: this site has measured nothing that teaches.
    """
    from foundry.engines.budsim.fitting.site import SiteRow

    with session.client() as client, show_activity("reading outcomes"):
        found = client.outcomes.list(limit=_PAGE)
        rows = [
            SiteRow.of(outcome.model_dump(mode="json")) for outcome in islice(found, _MOST_OUTCOMES)
        ]
    if not any(row.usable for row in rows):
        seen = f"none of its {len(rows)} windows is complete" if rows else "it has no windows yet"
        raise Conflict(
            f"there is nothing to learn from this site: {seen}; `foundry budsim recalibrate "
            "ENDPOINT` measures some, or leave --outcomes out"
        )
    return rows


def _tabulate_site(card: Mapping[str, Any]) -> list[dict[str, object]]:
    return [
        {
            "deployment": name,
            "error now, %": old,
            "error then, %": new,
            "change": _write_change(old, new),
        }
        for name, (old, new) in card.get("site_cv", {}).items()
    ]


def _read_meta(directory: Path) -> dict[str, Any]:
    return read_json_object(directory / _META, _PREDICTOR)


def _list_scores(directory: Path, meta: Mapping[str, Any]) -> dict[str, float]:
    from foundry.engines.budsim import promotion

    cv = meta.get("cv")
    if not isinstance(cv, dict):
        raise InvalidRequest(f"{directory / _META} is not {_PREDICTOR}: it has no cv")
    return promotion.splits(cv)


def _read_scores(name: str) -> dict[str, float]:
    """The scores of a directory, of the shipped model, or of a version that the server keeps."""
    from foundry.engines.budsim import packing

    directory = Path(name)
    if (directory / _META).is_file():
        return _list_scores(directory, _read_meta(directory))
    if name == _SHIPPED:
        return dict(packing.shipped_scores())
    if directory.is_dir():
        raise NotFound(f"{name} holds no predictor: `foundry budsim fit {name}` writes one")
    with session.client() as client:
        for row in client.outcomes.models().data:
            if row.version == name:
                return dict(row.cv)
    raise NotFound(
        f"{name} is neither a version of the predictor (`foundry budsim models` lists them) nor a "
        f"directory with {_META}"
    )


def _describe_standing(row: ModelOut) -> str:
    """What a registered model does now, and how to change that."""
    if row.status == "active":
        return f"it answers from now on; back: foundry budsim promote {_SHIPPED}"
    return f"it does not answer ({row.status}); all the same: foundry budsim promote {row.version}"


def _write_change(old: float | None, new: float | None) -> str:
    return "-" if not old or new is None else f"{new / old - 1:+.1%}"
