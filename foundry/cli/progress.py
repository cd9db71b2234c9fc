"""Reading what a job says of its progress: JSON that its driver wrote."""

from collections.abc import Mapping

Progress = Mapping[str, object]


def number(progress: Progress, name: str) -> float | None:
    value = progress.get(name)
    return float(value) if isinstance(value, int | float) else None


def written(progress: Progress, forms: Mapping[str, str]) -> list[str]:
    """The numbers that are known.

    Args:
        forms: name → how its value is written, as for `str.format`.
    """
    known = ((form, number(progress, name)) for name, form in forms.items())
    return [form.format(value) for form, value in known if value is not None]
