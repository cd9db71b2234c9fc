"""Tables and records that fit: words never break, so that an id can be copied and compared.

A table that is too wide for the terminal
    1. gives its columns of prose less room, and their words go on below;
    2. loses the columns that matter least, and says which;
    3. becomes a block of lines for each row.
In a pipe nothing is lost and every row is one line.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from foundry.cli.output.cells import is_unbreakable, write_cell, write_field

Row = Mapping[str, object]

_GAP = "  "
# A column of prose that is narrower reads like a tower.
_MIN_PROSE = 16
# A table that kept fewer of its columns says less than blocks do; of numbers a name and one do.
_FEWEST_COLUMNS = 3
_FEWEST_NUMBERS = 2


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        heading: of one line or more; in a pipe they are joined.
        cells: as they are printed, one for each row.
        keep: columns of less are left out first, of equals the rightmost.
        words: not numbers, so it stands to the left.
        prose: whether it may be cut between words.
    """

    heading: str
    cells: tuple[str, ...]
    keep: int = 0
    words: bool = False
    prose: bool = False

    @property
    def width(self) -> int:
        """The width at which nothing wraps."""
        lines = (line for text in (self.heading, *self.cells) for line in text.split("\n"))
        return max(map(cell_len, lines))

    @property
    def least_width(self) -> int:
        """The width at which no word breaks."""
        if not self.prose:
            return self.width
        words = (word for cell in self.cells for word in cell.split())
        longest = max(map(cell_len, (*self.heading.split("\n"), *words)))
        return max(longest, min(self.width, _MIN_PROSE))


def print_table(console: Console, rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Print rows, at least one. Returns the names of columns that had no room.

    Args:
        names: of the columns, the most important first.
    """
    terminal = console.is_terminal
    now = datetime.now(UTC) if terminal else None
    columns = [_make_column(rows, name, now) for name in names]
    blocks = [{name: row.get(name) for name in names} for row in rows]
    kept = _print_fitting(console, columns, blocks, _FEWEST_COLUMNS)
    return [name for name, column in zip(names, columns, strict=True) if column not in kept]


def print_columns(console: Console, columns: Sequence[Column]) -> list[str]:
    """Print cells that are written already. Returns the headings of columns that had no room."""
    headings = [column.heading.replace("\n", " ") for column in columns]
    if not console.is_terminal:
        columns = [
            replace(each, heading=line) for each, line in zip(columns, headings, strict=True)
        ]
    rows = zip(*(column.cells for column in columns), strict=True)
    blocks = [dict(zip(headings, row, strict=True)) for row in rows]
    kept = _print_fitting(console, columns, blocks, _FEWEST_NUMBERS)
    return [line for line, column in zip(headings, columns, strict=True) if column not in kept]


def _print_fitting(
    console: Console, columns: Sequence[Column], blocks: Sequence[Row], fewest: int
) -> Sequence[Column]:
    """Print the columns that have room, or else the blocks. Returns what it showed."""
    kept = choose_columns(columns, console.width) if console.is_terminal else columns
    if len(kept) >= min(len(columns), fewest):
        for line in write_lines(kept, console.width if console.is_terminal else None):
            _print_whole(console, line)
        return kept
    for number, block in enumerate(blocks):
        if number:
            console.print()
        print_fields(console, block)
    return columns


def choose_columns(columns: Sequence[Column], room: int) -> list[Column]:
    """The columns that fit, at least one; those that are kept least are left out first."""
    kept = list(columns)
    while len(kept) > 1 and _count_spare(kept, room) < 0:
        least = min(column.keep for column in kept)
        kept.pop(max(at for at, column in enumerate(kept) if column.keep == least))
    return kept


def write_lines(
    columns: Sequence[Column], room: int | None = None, *, styles: Sequence[str] = ()
) -> list[Text]:
    """The lines of a table: its headings, then its rows.

    Args:
        room: cells in which prose wraps; None: each row is one line.
        styles: of the rows; default: plain.
    """
    widths = [column.width for column in columns] if room is None else _share_room(columns, room)
    headings = [column.heading.split("\n") for column in columns]
    deepest = max(map(len, headings))
    # Short headings stand on the last line, above their cells.
    padded = [[""] * (deepest - len(lines)) + lines for lines in headings]
    written = [
        Text(_join_cells(line, columns, widths), style="bold") for line in _transpose_lines(padded)
    ]
    rows = list(zip(*(column.cells for column in columns), strict=True))
    for cells, style in zip(rows, styles or [""] * len(rows), strict=True):
        wrapped = [
            _wrap_words(cell, width if column.prose else None)
            for cell, column, width in zip(cells, columns, widths, strict=True)
        ]
        written += [
            Text(_join_cells(line, columns, widths), style=style)
            for line in _transpose_lines(wrapped)
        ]
    return written


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
        first, *rest = _wrap_words(write_field(value, name, now=now), room)
        _print_whole(console, Text.assemble(label, _GAP, first))
        for line in rest:
            _print_whole(console, Text(" " * width + _GAP + line))


def _make_column(rows: Sequence[Row], name: str, now: datetime | None) -> Column:
    values = [row.get(name) for row in rows]
    known = [value for value in values if value is not None]
    return Column(
        heading=name.replace("_", " "),
        cells=tuple(write_cell(value, name, now=now) for value in values),
        words=not known or not all(map(_is_number, known)),
        prose=not all(map(is_unbreakable, values)),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count_spare(columns: Sequence[Column], room: int) -> int:
    """Cells that are left beside columns of the least width; negative: they do not fit."""
    gaps = len(_GAP) * (len(columns) - 1)
    return room - gaps - sum(column.least_width for column in columns)


def _share_room(columns: Sequence[Column], room: int) -> list[int]:
    """Widths at which columns of prose share the spare cells, those of the left first."""
    spare, widths = max(0, _count_spare(columns, room)), []
    for column in columns:
        more = min(spare, column.width - column.least_width)
        widths.append(column.least_width + more)
        spare -= more
    return widths


def _join_cells(cells: Iterable[str], columns: Sequence[Column], widths: Sequence[int]) -> str:
    padded = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        space = " " * max(width - cell_len(cell), 0)
        padded.append(cell + space if column.words else space + cell)
    return _GAP.join(padded).rstrip()


def _wrap_words(text: str, room: int | None) -> list[str]:
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


def _transpose_lines(cells: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    for number in range(max(map(len, cells))):
        yield [lines[number] if number < len(lines) else "" for lines in cells]


def _print_whole(console: Console, line: Text) -> None:
    """Unbroken: where the terminal is too narrow, it wraps without a break in what is copied."""
    console.print(line, soft_wrap=True)
