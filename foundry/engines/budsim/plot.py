"""The Pareto front as a picture: in the terminal (plotext) or as PNG (matplotlib).

Both show feasible configurations of the front, those that miss a target, and the choice.
"""

import math
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from foundry.engines.budsim.search.recommendation import Point, Recommendation
from foundry.errors import InvalidRequest

X_LABEL = "$ per million output tokens"
Y_LABEL = "TTFT p95 (ms)"


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind: `x` in $ per 10⁶ output tokens, `y` in ms."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    color: str
    marker: str


def series(recommendation: Recommendation) -> tuple[Series, ...]:
    """What is drawn, from back to front: infeasible, front, choice. Kinds without points and
    a choice whose queue never ends are left out.

    Raises:
        InvalidRequest: there is nothing to draw.
    """
    choice = recommendation.choice
    if choice is None:
        raise InvalidRequest("no configuration fits, so there is no front to draw")
    prediction = choice.prediction
    chosen = Point(
        prediction.cost_per_mtok.point,
        prediction.ttft_p95_ms.point,
        prediction.throughput_tps.point,
    )
    name = "recommended" if recommendation.feasible else "nearest, infeasible"
    drawn = (chosen,) if math.isfinite(chosen.ttft_p95_ms * chosen.cost_per_mtok) else ()
    kinds = (
        _series("misses a target", recommendation.infeasible, "gray", "x"),
        _series("Pareto front", recommendation.front, "blue", "o"),
        _series(name, drawn, "red", "*"),
    )
    found = tuple(kind for kind in kinds if kind.x)
    if not found:
        raise InvalidRequest("every queue is endless at this load: add accelerators")
    return found


def _series(label: str, points: tuple[Point, ...], color: str, marker: str) -> Series:
    ordered = sorted(points, key=lambda point: point.cost_per_mtok)
    return Series(
        label,
        tuple(point.cost_per_mtok for point in ordered),
        tuple(point.ttft_p95_ms for point in ordered),
        color,
        marker,
    )


def terminal(recommendation: Recommendation, *, width: int = 80, height: int = 24) -> str:
    """The front as text, without colours; both axes logarithmic."""
    import plotext

    figure = plotext.figure
    figure.clear()
    figure.plot_size(width, height)
    for kind in series(recommendation):
        signal = figure.signal(list(kind.x), list(kind.y), marker=kind.marker)
        signal.label(kind.label)
        figure.draw(signal)
    for axis, label in (("x", X_LABEL), ("y", Y_LABEL)):
        figure.ruler(axis).scale("log")
        figure.label(label, axis)
    text = str(plotext.uncolorize(str(figure.build())))
    figure.clear()
    return text


def png(recommendation: Recommendation, path: Path | None = None) -> bytes:
    """The front as PNG; also written to `path` if given."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for order, kind in enumerate(series(recommendation)):
        size = 160 if kind.marker == "*" else 28
        axes.scatter(
            kind.x,
            kind.y,
            s=size,
            c=kind.color,
            marker=kind.marker,
            label=kind.label,
            zorder=order + 2,
        )
    axes.set(xscale="log", yscale="log", xlabel=X_LABEL, ylabel=Y_LABEL)
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    if path is not None:
        path.write_bytes(buffer.getvalue())
    return buffer.getvalue()
