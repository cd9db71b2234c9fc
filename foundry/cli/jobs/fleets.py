"""What a DiLoCo job says of itself and of its workers, while it runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.text import Text

from foundry.cli.output.progress import Progress, format_numbers, read_number
from foundry.cli.output.tables import Column, choose_columns, write_lines
from foundry.cli.output.terminal import printable

_HEADINGS = ("member", "node", "state", "round", "loss", "tok/s", "sent", "received")
_NUMERIC = frozenset(_HEADINGS[3:])
LOSSES = {"loss": "loss {:.4f}", "eval_loss": "eval loss {:.4f}"}
_STYLES = {"healing": "yellow", "joining": "yellow", "lost": "red"}


def describe_steps(progress: Progress) -> str:
    """How far the run is; empty before it trains."""
    total = read_number(progress, "total_steps")
    if not total:
        return ""
    committed, step = _write_count(progress, "round"), _write_count(progress, "step")
    return f"round {committed}, batch {step}/{total:.0f}"


def describe_traffic(progress: Progress) -> str:
    """Who takes part and what it cost so far, in one line; empty before there are workers."""
    if read_number(progress, "workers") is None:
        return ""
    traffic = progress.get("bytes")
    moved = traffic if isinstance(traffic, Mapping) else {}
    return "  ".join(
        (
            f"workers {_write_count(progress, 'workers')}, "
            f"quorum {_write_count(progress, 'quorum')}",
            f"commits {_write_count(progress, 'commits')}",
            f"aborts {_write_count(progress, 'aborts')}",
            f"exchanged {_write_size(moved, 'data')}",
            f"healing {_write_size(moved, 'heal')}",
        )
    )


def list_cells(progress: Progress) -> list[tuple[str, ...]]:
    """A row for each worker, in the order of the headings; `-`: not known yet."""
    return [
        (
            _write_word(member, "member"),
            _write_word(member, "node"),
            _write_word(member, "state"),
            _write_known(member, "round", "{:.0f}"),
            _write_known(member, "loss", "{:.4f}"),
            _write_known(member, "tokens_per_second", "{:,.0f}"),
            _write_size(member, "sent"),
            _write_size(member, "received"),
        )
        for member in _list_members(progress)
    ]


def make_view(progress: Progress, room: int) -> RenderableType | None:
    """The workers, and what they did together; None: there are none yet.

    Args:
        room: width of the terminal, cells.
    """
    rows = list_cells(progress)
    if not rows:
        return None
    columns = [
        Column(heading, cells, words=heading not in _NUMERIC)
        for heading, cells in zip(_HEADINGS, zip(*rows, strict=True), strict=True)
    ]
    styles = [_STYLES.get(row[_HEADINGS.index("state")], "") for row in rows]
    lines = write_lines(choose_columns(columns, room), room, styles=styles)
    return Group(*lines, Text(describe_traffic(progress), style="dim"))


def sum_shares(row: Mapping[str, Any]) -> dict[str, object]:
    """A committed round's members, taken together: `merged` is how many of them counted."""
    shares = row["members"]
    merged = [share for share in shares if share["merged"]]
    return {
        "merged": f"{len(merged)}/{len(shares)}",
        "batches": sum(share["batches"] for share in merged),
        "tokens": sum(share["tokens"] for share in merged),
        "sent": decimal(sum(share["bytes_sent"] for share in shares)),
    }


def _list_members(progress: Progress) -> Sequence[Progress]:
    fleet = progress.get("fleet")
    return [each for each in fleet if isinstance(each, Mapping)] if isinstance(fleet, list) else []


def _write_word(member: Progress, name: str) -> str:
    value = member.get(name)
    return printable(value) if isinstance(value, str) and value else "-"


def _write_known(values: Progress, name: str, form: str) -> str:
    return "".join(format_numbers(values, {name: form})) or "-"


def _write_count(values: Progress, name: str) -> str:
    return f"{read_number(values, name) or 0:.0f}"


def _write_size(values: Progress, name: str) -> str:
    """Decimal: 1 kB is 1,000 bytes, as links are measured."""
    return decimal(int(read_number(values, name) or 0))
