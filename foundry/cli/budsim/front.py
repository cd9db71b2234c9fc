"""The Pareto front of an answer: drawn in the terminal, or as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.cli.files import explain_unwritable
from foundry.cli.output.console import print_note, print_warning, stdout

if TYPE_CHECKING:
    from foundry.engines.budsim.search.recommendation import Choice, Point, Recommendation

Fields = Mapping[str, Any]
_MAX_WIDTH = 100


def show_front(found: Fields, *, plot: bool, png: Path | None) -> None:
    """Draw what the options ask for; warn where nothing fits, so that there is nothing to draw."""
    if not plot and png is None:
        return
    if found["choice"] is None:
        print_warning("nothing fits, so no front is drawn")
        return
    if plot:
        _print_front(found)
    if png is not None:
        _write_front(found, png)


def _print_front(found: Fields) -> None:
    from foundry.engines.budsim.plot import terminal

    out = stdout()
    out.print(terminal(_rebuild(found), width=min(out.width, _MAX_WIDTH)), markup=False)


def _write_front(found: Fields, file: Path) -> None:
    from foundry.engines.budsim.plot import png

    try:
        png(_rebuild(found), file)
    except OSError as error:
        raise explain_unwritable(file, error) from error
    print_note(f"wrote {file}")


def _rebuild(found: Fields) -> Recommendation:
    """The answer as budsim's own type again, as far as a plot needs it."""
    from foundry.engines.budsim.search.recommendation import Recommendation

    return Recommendation(
        feasible=found["feasible"],
        choice=_rebuild_choice(found["choice"]),
        resources=None,
        targets=(),
        binding=found["binding"],
        overloaded=found["overloaded"],
        alternatives=(),
        front=_rebuild_points(found["front"]),
        infeasible=_rebuild_points(found["infeasible"]),
        regret=None,
        tried=found["tried"],
        possible=found["possible"],
        exhaustive=found["exhaustive"],
        shortage=None,
        digests=found["digests"],
        notes=tuple(found["notes"]),
    )


def _rebuild_choice(found: Fields) -> Choice:
    from foundry.engines.budsim.configuration import Configuration
    from foundry.engines.budsim.prediction import Interval, Prediction
    from foundry.engines.budsim.search.recommendation import Choice

    values: dict[str, Any] = {
        name: Interval(*(_to_unbounded(value[end]) for end in ("low", "point", "high")))
        if isinstance(value, Mapping)
        else value
        for name, value in found["prediction"].items()
    }
    return Choice(Configuration(**found["configuration"]), Prediction(**values))


def _rebuild_points(found: Sequence[Mapping[str, float | None]]) -> tuple[Point, ...]:
    from foundry.engines.budsim.search.recommendation import Point

    return tuple(
        Point(**{name: _to_unbounded(value) for name, value in point.items()})
        for point in found
        if all(value is not None for value in point.values())
    )


def _to_unbounded(value: float | None) -> float:
    """A null of the wire is a number without bound."""
    return math.inf if value is None else value
