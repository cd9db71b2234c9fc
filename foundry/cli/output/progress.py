"""How long work is shown while it goes on, and what a job says of its progress.

On a terminal one line that moves: a spinner, what happens, how long it has taken and, where the end
is known, about how long it will take. In a pipe a line for each stage.
"""

from collections.abc import Mapping

from rich.progress import ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

Progress = Mapping[str, object]


def read_number(progress: Progress, name: str) -> float | None:
    value = progress.get(name)
    return float(value) if isinstance(value, int | float) else None


def format_numbers(progress: Progress, forms: Mapping[str, str]) -> list[str]:
    """The numbers that are known.

    Args:
        forms: name → how its value is written, as for `str.format`.
    """
    known = ((form, read_number(progress, name)) for name, form in forms.items())
    return [form.format(value) for form, value in known if value is not None]


def make_columns(*middle: ProgressColumn) -> tuple[ProgressColumn, ...]:
    """The columns of every line of progress, with those of a kind of work in between."""
    return (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        *middle,
        _Times(),
    )


class _Times(ProgressColumn):
    """`1:05`, and `1:05, about 2:10 left` where the end is known; in minutes and seconds."""

    def render(self, task: Task) -> Text:
        told = _write_clock(task.elapsed or 0.0)
        if task.time_remaining is not None and not task.finished:
            told += f", about {_write_clock(task.time_remaining)} left"
        return Text(told, style="dim", no_wrap=True)


def _write_clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
