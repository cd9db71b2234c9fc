"""Tables of numbers that fit the terminal: no number and no id is folded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.table import Table

from foundry.cli.output.console import print_note, stdout

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
_PADDING = 2


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        texts: of each row.
        keep: columns of less are dropped first.
        words: not numbers, so it stands to the left.
    """

    title: str
    texts: tuple[str, ...]
    keep: int = 0
    words: bool = False

    @property
    def width(self) -> int:
        return max(
            cell_len(line) for text in (self.title, *self.texts) for line in text.split("\n")
        )


def print_columns(columns: Sequence[Column], *, title: str | None = None) -> None:
    """In their order. On a terminal those that fit, and which were left out; else all, and each
    row is one line."""
    out = stdout()
    kept = fit_columns(columns, out.width) if out.is_terminal else list(columns)
    headings = [column.title.split("\n") for column in kept]
    if not out.is_terminal:
        headings = [[" ".join(lines)] for lines in headings]
    if title is not None:
        out.print(title, style="italic", markup=False)
    widths = [
        max(map(cell_len, (*lines, *column.texts)))
        for lines, column in zip(headings, kept, strict=True)
    ]
    for line in range(max(map(len, headings))):
        # Short headings stand on the last line, above their numbers.
        below = max(map(len, headings)) - line
        cells = [lines[-below] if len(lines) >= below else "" for lines in headings]
        out.print(_join(cells, kept, widths), style="bold", markup=False)
    for row in zip(*(column.texts for column in kept), strict=True):
        out.print(_join(row, kept, widths), markup=False)
    missing = [column.title.replace("\n", " ") for column in columns if column not in kept]
    if missing:
        print_note(f"no room for {', '.join(missing)}: --output json has them")


def _join(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    padded = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        space = " " * (width - cell_len(cell))
        padded.append(cell + space if column.words else space + cell)
    return (" " * _PADDING).join(padded).rstrip()


def fit_columns(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns without the least important ones, the rightmost of equals first."""
    kept = list(columns)
    while len(kept) > 1 and sum(column.width + _PADDING for column in kept) - _PADDING > width:
        least = min(column.keep for column in kept)
        last = max(at for at, column in enumerate(kept) if column.keep == least)
        kept.pop(last)
    return kept


def print_prose(text: str, *, style: str | None = None) -> None:
    """Sentences: broken between words on a terminal, whole lines through a pipe."""
    out = stdout()
    out.print(text, style=style, markup=False, soft_wrap=not out.is_terminal)


def make_table(*titles: str) -> Table:
    """Numbers to the right of a first column of names."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for at, title in enumerate(titles):
        table.add_column(title, overflow="fold", justify="left" if at == 0 else "right")
    return table


def configuration_table(found: Fields) -> Table:
    """What to set; of a recommendation."""
    config, resources = found["endpoint_config"], found["resources"]
    table = make_table("setting", "value")
    table.add_row("gpu", f"{resources['gpu_count']} x {resources['gpu_type']} per replica")
    for name, value in config.items():
        if name != "resources":
            table.add_row(name, str(value))
    table.add_row(
        "host per replica",
        f"{resources['cpu_cores']} core{'s' if resources['cpu_cores'] > 1 else ''}, "
        f"{resources['memory_gb']} GB",
    )
    return table


def prediction_table(prediction: Fields) -> Table:
    """One prediction with its intervals."""
    table = make_table("predicted", "low", "expected", "high")
    for name, title in METRICS.items():
        table.add_row(
            title, *(write_number(prediction[name][end]) for end in ("low", "point", "high"))
        )
    table.add_row("$ per hour", "", write_number(prediction["cost_per_hour"]), "")
    table.caption = f"confidence {prediction['confidence']}: {prediction['novelty']}"
    return table


def targets_table(targets: Sequence[Fields], binding: str | None) -> Table:
    """How a configuration stands to each target."""
    relaxes = any(target.get("relaxed") is not None for target in targets)
    more = ["would do"] if relaxes else []
    table = make_table("target", "limit", "worst case", "slack", "met", *more)
    for target in targets:
        mark = " (binds)" if target["name"] == binding else ""
        table.add_row(
            f"{target['name']}{mark}",
            write_number(target["limit"]),
            write_number(target["bound"]),
            _write_slack(target["slack"]),
            "yes" if target["met"] else "no",
            *([write_number(target.get("relaxed"))] if relaxes else []),
        )
    return table


def print_alternatives(choices: Sequence[Fields]) -> None:
    """The expected values only: the intervals are in the other tables."""
    columns = describe_rows(
        [choice["configuration"] for choice in choices],
        [choice["prediction"] for choice in choices],
        intervals=False,
    )
    print_columns(columns, title="recommended, and what else is on the Pareto front")


def print_predictions(rows: Sequence[Fields], found: Sequence[Fields]) -> None:
    """One line per configuration, with intervals where there is room for them."""
    numbers = Column("#", tuple(str(number) for number in range(1, len(rows) + 1)), keep=9)
    wide = [numbers, *describe_rows(rows, found, intervals=True)]
    out = stdout()
    fits = not out.is_terminal or len(fit_columns(wide, out.width)) == len(wide)
    print_columns(wide if fits else [numbers, *describe_rows(rows, found, intervals=False)])


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


def simulation_tables(found: Fields) -> Iterable[Table]:
    """Latencies by percentile, then how the engines fared."""
    latencies = make_table("simulated", "mean", "p50", "p95", "p99")
    for name, values in found["percentiles"].items():
        title = f"{_TITLES.get(name, name)}, ms"
        latencies.add_row(
            title, *(write_number(values[part]) for part in ("mean", "p50", "p95", "p99"))
        )
    yield latencies
    engines = make_table("engines", "value")
    engines.add_row("requests", write_number(found["requests"]))
    engines.add_row("output tokens/s", write_number(found["throughput_tps"]))
    engines.add_row("busy, %", write_number(found["utilization"] * 100))
    engines.add_row("KV cache at its fullest, %", write_number(found["peak_kv"] * 100))
    engines.add_row("preemptions", write_number(found["preemptions"]))
    engines.add_row("rejected requests", write_number(found["rejected"]))
    yield engines


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
    """Of a limit; a miss by more than twice the limit as a multiple."""
    if share is None:
        return "-"
    return f"{share:+.0%}" if share > -1 else f"{1 - share:,.0f} times"
