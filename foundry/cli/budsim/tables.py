"""What budsim says, as tables of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foundry.cli.output.console import show_columns, stdout
from foundry.cli.output.tables import Column, choose_columns

Fields = Mapping[str, Any]
METRICS = {
    "ttft_p50_ms": "TTFT p50, ms",
    "ttft_p95_ms": "TTFT p95, ms",
    "tpot_ms": "TPOT, ms",
    "latency_p95_ms": "end to end p95, ms",
    "throughput_tps": "output tokens/s",
    "cost_per_mtok": "$ per 1M tokens",
}
# Two lines each, so that several stand side by side.
_SHORT = {
    "ttft_p95_ms": "TTFT\np95, ms",
    "tpot_ms": "TPOT\nms",
    "throughput_tps": "tokens\nper s",
    "cost_per_mtok": "$ per\n1M",
}
DEFINITIONS = (
    "TTFT from arrival at the gateway; TPOT = (end to end - TTFT)/(output tokens - 1); "
    "throughput counts output tokens"
)


def print_prose(text: str, *, style: str | None = None) -> None:
    """Sentences: broken between words on a terminal, whole lines through a pipe."""
    out = stdout()
    out.print(text, style=style, markup=False, soft_wrap=not out.is_terminal)


def print_named_rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print numbers to the right of a first column of names."""
    columns = zip(*rows, strict=True)
    show_columns(
        [
            Column(heading, cells, words=at == 0)
            for at, (heading, cells) in enumerate(zip(headings, columns, strict=True))
        ]
    )


def print_configuration(found: Fields) -> None:
    """Print what to set, of a recommendation."""
    config, resources = found["endpoint_config"], found["resources"]
    rows = [("gpu", f"{resources['gpu_count']} x {resources['gpu_type']} per replica")]
    rows += [(name, str(value)) for name, value in config.items() if name != "resources"]
    cores = f"{resources['cpu_cores']} core{'s' if resources['cpu_cores'] > 1 else ''}"
    host = f"{cores}, {resources['memory_gb']} GB"
    print_named_rows(("setting", "value"), [*rows, ("host per replica", host)])


def print_estimates(prediction: Fields) -> None:
    """Print one prediction with its intervals."""
    rows = [
        (title, *(write_number(prediction[name][end]) for end in ("low", "point", "high")))
        for name, title in METRICS.items()
    ]
    cost = ("$ per hour", "", write_number(prediction["cost_per_hour"]), "")
    print_named_rows(("predicted", "low", "expected", "high"), [*rows, cost])
    print_prose(f"confidence {prediction['confidence']}: {prediction['novelty']}", style="dim")


def print_targets(targets: Sequence[Fields], binding: str | None) -> None:
    """Print how a configuration stands to each target."""
    relaxes = any(target.get("relaxed") is not None for target in targets)
    more = ["would do"] if relaxes else []
    rows = [
        (
            target["name"] + (" (binds)" if target["name"] == binding else ""),
            write_number(target["limit"]),
            write_number(target["bound"]),
            _write_slack(target["slack"]),
            "yes" if target["met"] else "no",
            *([write_number(target.get("relaxed"))] if relaxes else []),
        )
        for target in targets
    ]
    print_named_rows(("target", "limit", "worst case", "slack", "met", *more), rows)


def print_alternatives(choices: Sequence[Fields]) -> None:
    """The expected values only: the intervals are in the other tables."""
    columns = describe_rows(
        [choice["configuration"] for choice in choices],
        [choice["prediction"] for choice in choices],
        intervals=False,
    )
    stdout().print("recommended, and what else is on the Pareto front", style="italic")
    show_columns(columns)


def print_predictions(rows: Sequence[Fields], found: Sequence[Fields]) -> None:
    """One line per configuration, with intervals where there is room for them."""
    numbers = Column("#", tuple(str(number) for number in range(1, len(rows) + 1)), keep=9)
    wide = [numbers, *describe_rows(rows, found, intervals=True)]
    out = stdout()
    fits = not out.is_terminal or len(choose_columns(wide, out.width)) == len(wide)
    show_columns(wide if fits else [numbers, *describe_rows(rows, found, intervals=False)])


def describe_rows(
    rows: Sequence[Fields], predictions: Sequence[Fields], *, intervals: bool
) -> list[Column]:
    """Columns of configurations and their predictions; what all have in common is left out."""
    runtimes = [str(row.get("runtime", "vllm")) for row in rows]
    fits = ["yes" if prediction["fits"] else "no" for prediction in predictions]
    columns = [Column("gpu", tuple(str(row["gpu"]) for row in rows), keep=9, words=True)]
    if len(set(runtimes)) > 1:
        columns.append(Column("runtime", tuple(runtimes), keep=4, words=True))
    columns.append(Column("replicas\nx tp·pp", tuple(map(_write_layout, rows)), keep=8))
    if "no" in fits:
        columns.append(Column("fits", tuple(fits), keep=8))
    for name, title in (METRICS if intervals else _SHORT).items():
        texts = (_write_estimate(prediction[name], intervals) for prediction in predictions)
        columns.append(Column(title, tuple(texts), keep=6))
    costs = (write_number(prediction["cost_per_hour"]) for prediction in predictions)
    trusts = (str(prediction["confidence"]) for prediction in predictions)
    return [*columns, Column("$ per\nhour", tuple(costs), keep=7), Column("trust", tuple(trusts))]


def print_simulation(found: Fields) -> None:
    """Print latencies by percentile, then how the engines fared."""
    parts = ("mean", "p50", "p95", "p99")
    latencies = [
        (f"{_TITLES.get(name, name)}, ms", *(write_number(values[part]) for part in parts))
        for name, values in found["percentiles"].items()
    ]
    print_named_rows(("simulated", *parts), latencies)
    engines = {
        "requests": found["requests"],
        "output tokens/s": found["throughput_tps"],
        "busy, %": found["utilization"] * 100,
        "KV cache at its fullest, %": found["peak_kv"] * 100,
        "preemptions": found["preemptions"],
        "rejected requests": found["rejected"],
    }
    print_named_rows(
        ("engines", "value"), [(name, write_number(value)) for name, value in engines.items()]
    )


_TITLES = {
    "queue_ms": "wait in the queue",
    "ttft_ms": "TTFT",
    "tpot_ms": "TPOT",
    "latency_ms": "end to end",
}


def write_number(value: float | None) -> str:
    """A null is a number without bound."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _write_layout(row: Fields) -> str:
    layout = f"{row.get('tensor_parallel_size', 1)}·{row.get('pipeline_parallel_size', 1)}"
    return f"{row.get('replicas', 1)} x {layout}"


def _write_estimate(ends: Mapping[str, float | None], interval: bool) -> str:
    point = write_number(ends["point"])
    if not interval:
        return point
    return f"{point} [{write_number(ends['low'])}, {write_number(ends['high'])}]"


def _write_slack(share: float | None) -> str:
    """A share of a limit in percent; a miss by more than twice the limit as a multiple."""
    if share is None:
        return "-"
    return f"{share:+.0%}" if share > -1 else f"{1 - share:,.0f} times"
