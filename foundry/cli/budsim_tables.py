"""How `foundry budsim` shows its answers: tables for people, and the front as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from foundry.cli.console import stderr, stdout

if TYPE_CHECKING:
    from foundry.engines.budsim.search.recommendation import Point, Recommendation

Fields = Mapping[str, Any]
CATALOGUE = ("id", "memory_gb", "bandwidth_gbps", "bf16_tflops", "fp8_tflops", "price_per_hour")
_METRICS = {
    "ttft_p50_ms": "TTFT p50, ms",
    "ttft_p95_ms": "TTFT p95, ms",
    "tpot_ms": "TPOT, ms",
    "latency_p95_ms": "end to end p95, ms",
    "throughput_tps": "output tokens/s",
    "cost_per_mtok": "$ per 1M tokens",
}
_SHORT = {
    "ttft_p95_ms": "TTFT p95",
    "tpot_ms": "TPOT",
    "throughput_tps": "tokens/s",
    "cost_per_mtok": "$/1M",
}
_DEFINITIONS = (
    "TTFT from arrival at the gateway; TPOT = (end to end - TTFT)/(output tokens - 1); "
    "throughput counts output tokens"
)


def print_recommendation(found: Fields) -> None:
    """What to set, what to expect, why, and what else there is."""
    out, choice = stdout(), found["choice"]
    if choice is None:
        out.print("nothing fits", style="bold red")
        shortage = found.get("shortage") or {}
        out.print(f"closest: {shortage.get('reason')}", markup=False)
        _print_notes(found)
        return
    verdict = "meets every target" if found["feasible"] else "nothing meets the targets; nearest"
    out.print(verdict, style="bold green" if found["feasible"] else "bold red")
    tables = [_configuration(found), _prediction(choice["prediction"])]
    if found["targets"]:
        tables.append(_targets(found))
    for table in tables:
        out.print()
        out.print(table)
    out.print()
    _print_reason(found)
    if found["alternatives"]:
        out.print()
        out.print(_alternatives([choice, *found["alternatives"]]))
    out.print(_DEFINITIONS, style="dim", markup=False)
    if "id" in found:
        stderr().print(f"next: foundry budsim explain {found['id']}", markup=False)


def print_predictions(rows: Sequence[Fields], found: Fields) -> None:
    out = stdout()
    if len(rows) == 1:
        (only,) = found["data"]
        if not only["fits"]:
            out.print("it does not fit into the memory", style="bold red")
        out.print(_prediction(only))
    else:
        out.print(_predictions(rows, found["data"]))
    _print_notes(found)
    out.print(_DEFINITIONS, style="dim", markup=False)


def _predictions(rows: Sequence[Fields], found: Sequence[Fields]) -> Table:
    """One line per configuration."""
    table = _table(
        "gpu", "runtime", "tp·pp", "replicas", "fits", *_METRICS.values(), "$/h", "trust"
    )
    for row, prediction in zip(rows, found, strict=True):
        table.add_row(
            str(row["gpu"]),
            str(row.get("runtime", "vllm")),
            f"{row.get('tensor_parallel_size', 1)}·{row.get('pipeline_parallel_size', 1)}",
            str(row.get("replicas", 1)),
            "yes" if prediction["fits"] else "no",
            *(_interval(prediction[name]) for name in _METRICS),
            _number(prediction["cost_per_hour"]),
            str(prediction["confidence"]),
        )
    return table


def print_validation(found: Fields) -> None:
    out = stdout()
    out.print("valid", style="bold green")
    out.print(_prediction(found["prediction"]))
    for warning in found["warnings"]:
        out.print(f"warning: {warning}", style="yellow", markup=False)


def simulation(found: Fields) -> Table:
    table = _table("metric", "mean", "p50", "p95", "p99")
    for name, values in found["percentiles"].items():
        table.add_row(name, *(_number(values[part]) for part in ("mean", "p50", "p95", "p99")))
    for name in ("throughput_tps", "utilization", "peak_kv", "preemptions", "rejected"):
        table.add_row(name, _number(found[name]))
    if found["saturated"]:
        table.caption = "saturated: requests arrive faster than they leave"
    return table


def print_front(found: Fields) -> None:
    """The Pareto front, drawn in the terminal."""
    from foundry.engines.budsim.plot import terminal

    out = stdout()
    out.print(terminal(_drawable(found), width=min(out.width, 100)), markup=False)


def write_front(found: Fields, file: Path) -> None:
    from foundry.engines.budsim.plot import png

    png(_drawable(found), file)
    stderr().print(f"wrote {file}", markup=False)


def _configuration(found: Fields) -> Table:
    config, resources = found["endpoint_config"], found["resources"]
    table = _table("setting", "value")
    table.add_row("gpu", f"{resources['gpu_count']} x {resources['gpu_type']} per replica")
    for name, value in config.items():
        if name != "resources":
            table.add_row(name, str(value))
    table.add_row(
        "host per replica", f"{resources['cpu_cores']} cores, {resources['memory_gb']} GB"
    )
    return table


def _prediction(prediction: Fields) -> Table:
    table = _table("predicted", "low", "expected", "high")
    for name, title in _METRICS.items():
        table.add_row(title, *(_number(prediction[name][end]) for end in ("low", "point", "high")))
    table.add_row("$ per hour", "", _number(prediction["cost_per_hour"]), "")
    table.caption = f"confidence {prediction['confidence']}: {prediction['novelty']}"
    return table


def _targets(found: Fields) -> Table:
    table = _table("target", "limit", "worst case", "slack", "met", "met if relaxed to")
    for target in found["targets"]:
        mark = " (binds)" if target["name"] == found["binding"] else ""
        table.add_row(
            f"{target['name']}{mark}",
            _number(target["limit"]),
            _number(target["bound"]),
            _slack(target["slack"]),
            "yes" if target["met"] else "no",
            _number(target["relaxed"]),
        )
    return table


def _print_reason(found: Fields) -> None:
    explanation = found.get("explanation")
    if explanation is not None:
        stdout().print(explanation["text"], markup=False)
    _print_notes(found)


def _print_notes(found: Fields) -> None:
    for note in found["notes"]:
        stdout().print(f"note: {note}", markup=False, style="yellow")


def _alternatives(choices: Sequence[Fields]) -> Table:
    """The expected values only: the intervals are in the other tables."""
    table = _table("gpu", "runtime", "tp·pp", "replicas", *_SHORT.values(), "$/h")
    for choice in choices:
        at, prediction = choice["configuration"], choice["prediction"]
        table.add_row(
            at["gpu"],
            at["runtime"],
            f"{at['tensor_parallel_size']}·{at['pipeline_parallel_size']}",
            str(at["replicas"]),
            *(_number(prediction[name]["point"]) for name in _SHORT),
            _number(prediction["cost_per_hour"]),
        )
    table.title = "recommended, and what else is on the Pareto front"
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for number, name in enumerate(columns):
        table.add_column(name, overflow="fold", justify="left" if number == 0 else "right")
    return table


def _interval(ends: Mapping[str, float | None]) -> str:
    return f"{_number(ends['point'])} [{_number(ends['low'])}, {_number(ends['high'])}]"


def _slack(share: float | None) -> str:
    """Of a limit; a miss by more than twice the limit as a multiple."""
    if share is None:
        return "-"
    return f"{share:+.0%}" if share > -1 else f"{1 - share:.0f} times"


def _number(value: float | None) -> str:
    """A null is a number without bound."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _drawable(found: Fields) -> Recommendation:
    """The answer as budsim's own type again, as far as a plot needs it."""
    from foundry.engines.budsim.search.recommendation import Recommendation

    return Recommendation(
        feasible=found["feasible"],
        choice=_choice(found["choice"]),
        resources=None,
        targets=(),
        binding=found["binding"],
        overloaded=found["overloaded"],
        alternatives=(),
        front=_points(found["front"]),
        infeasible=_points(found["infeasible"]),
        regret=None,
        tried=found["tried"],
        possible=found["possible"],
        exhaustive=found["exhaustive"],
        shortage=None,
        digests=found["digests"],
        notes=tuple(found["notes"]),
    )


def _choice(found: Fields | None) -> Any:
    if found is None:
        return None
    from foundry.engines.budsim.configuration import Configuration
    from foundry.engines.budsim.prediction import Interval, Prediction
    from foundry.engines.budsim.search.recommendation import Choice

    values: dict[str, Any] = {
        name: Interval(*(_bounded(value[end]) for end in ("low", "point", "high")))
        if isinstance(value, Mapping)
        else value
        for name, value in found["prediction"].items()
    }
    return Choice(Configuration(**found["configuration"]), Prediction(**values))


def _points(found: Sequence[Mapping[str, float | None]]) -> tuple[Point, ...]:
    from foundry.engines.budsim.search.recommendation import Point

    return tuple(
        Point(**{name: _bounded(value) for name, value in point.items()})
        for point in found
        if all(value is not None for value in point.values())
    )


def _bounded(value: float | None) -> float:
    return math.inf if value is None else value
