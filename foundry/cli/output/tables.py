"""Tables and records that fit: words never break, so that an id can be copied and compared.

A table that is too wide for the terminal
    1. gives its columns of prose less room, and their words go on below;
    2. loses columns from the right, and says which;
    3. becomes a block of lines for each row.
In a pipe nothing is lost and every row is one line.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from foundry.cli.output.cells import is_unbreakable, write_cell, write_field

Row = Mapping[str, object]

_GAP = "  "
# A column of prose that is narrower reads like a tower.
_MIN_PROSE = 16
# A table that kept fewer of its columns says less than blocks do.
_FEWEST_COLUMNS = 3


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of a table.

    Attributes:
        cells: as they are printed.
        prose: whether it may be cut between words.
        right: aligned so; numbers are.
    """

    heading: str
    cells: tuple[str, ...]
    prose: bool
    right: bool

    @property
    def width(self) -> int:
        """That nothing wraps at."""
        lines = (line for cell in self.cells for line in cell.split("\n"))
        return max(map(cell_len, (self.heading, *lines)))

    @property
    def least_width(self) -> int:
        """At which no word breaks."""
        if not self.prose:
            return self.width
        words = (word for cell in self.cells for word in cell.split())
        longest = max(map(cell_len, (self.heading, *words)))
        return max(longest, min(self.width, _MIN_PROSE))


def print_table(console: Console, rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Print rows, at least one. Returns the names of columns that had no room.

    Args:
        names: of the columns, the most important first.
    """
    terminal = console.is_terminal
    now = datetime.now(UTC) if terminal else None
    columns = [_make_column(rows, name, now) for name in names]
    if not terminal:
        _print_lines(console, columns, [column.width for column in columns])
        return []
    widths = _fit(columns, console.width)
    if len(widths) < min(len(columns), _FEWEST_COLUMNS):
        for number, row in enumerate(rows):
            if number:
                console.print()
            print_fields(console, {name: row.get(name) for name in names})
        return []
    _print_lines(console, columns[: len(widths)], widths)
    return list(names[len(widths) :])


def print_fields(console: Console, record: Row, indent: int = 0) -> None:
    """Print a record, a line for each field; fields of fields are indented below it."""
    now = datetime.now(UTC) if console.is_terminal else None
    labels = {name: " " * indent + name.replace("_", " ") for name in record}
    width = max((cell_len(label) for label in labels.values()), default=0)
    for name, value in record.items():
        label = Text(labels[name] + " " * (width - cell_len(labels[name])), style="bold")
        if isinstance(value, Mapping) and value:
            _print_whole(console, Text(labels[name], style="bold"))
            print_fields(console, value, indent + 2)
            continue
        wraps = now is not None and not is_unbreakable(value)
        room = console.width - width - len(_GAP) if wraps else None
        first, *rest = _wrap(write_field(value, name, now=now), room)
        _print_whole(console, Text.assemble(label, _GAP, first))
        for line in rest:
            _print_whole(console, Text(" " * width + _GAP + line))


def _make_column(rows: Sequence[Row], name: str, now: datetime | None) -> _Column:
    values = [row.get(name) for row in rows]
    numeric = [value for value in values if value is not None]
    return _Column(
        heading=name.replace("_", " "),
        cells=tuple(write_cell(value, name, now=now) for value in values),
        prose=not all(map(is_unbreakable, values)),
        right=bool(numeric) and all(_is_number(value) for value in numeric),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fit(columns: Sequence[_Column], room: int) -> list[int]:
    """The widths of the first columns, as many as fit."""
    for count in range(len(columns), 0, -1):
        kept = columns[:count]
        spare = room - len(_GAP) * (count - 1) - sum(column.least_width for column in kept)
        if spare >= 0:
            return _share(kept, spare)
    return []


def _share(columns: Sequence[_Column], spare: int) -> list[int]:
    """Widths at which columns of prose have the `spare` cells, those of the left first."""
    widths = []
    for column in columns:
        more = min(spare, column.width - column.least_width)
        widths.append(column.least_width + more)
        spare -= more
    return widths


def _print_lines(console: Console, columns: Sequence[_Column], widths: Sequence[int]) -> None:
    headings = [column.heading for column in columns]
    _print_whole(console, Text(_join(headings, columns, widths), style="bold"))
    for cells in zip(*(column.cells for column in columns), strict=True):
        wrapped = [_wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
        for line in _transpose(wrapped):
            _print_whole(console, Text(_join(line, columns, widths)))


def _join(cells: Iterable[str], columns: Sequence[_Column], widths: Sequence[int]) -> str:
    padded = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        space = " " * max(width - cell_len(cell), 0)
        padded.append(space + cell if column.right else cell + space)
    return _GAP.join(padded).rstrip()


def _wrap(text: str, room: int | None) -> list[str]:
    """Lines that break between words only; None: as they are."""
    lines: list[str] = []
    for line in text.split("\n"):
        if room is None or cell_len(line) <= room:
            lines.append(line)
            continue
        lines += textwrap.wrap(
            line, max(room, _MIN_PROSE), break_long_words=False, break_on_hyphens=False
        )
    return lines


def _transpose(cells: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    for number in range(max(map(len, cells))):
        yield [lines[number] if number < len(lines) else "" for lines in cells]


def _print_whole(console: Console, line: Text) -> None:
    """Unbroken: where the terminal is too narrow, it wraps without a break in what is copied."""
    console.print(line, soft_wrap=True)
