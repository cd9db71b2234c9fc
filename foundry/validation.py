"""Problems of a value in the words of whoever sent it: a request, a setting, an option.

It lies below everything else, so that clients and servers alike translate with it. pydantic's
errors name classes of ours, branches of unions and its own phrases. What a caller can use is the
place in what was sent and a plain demand: the place is found by walking the sent value along the
error's location and dropping every element that is not in it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

UNKNOWN = object()
_ABSENT = object()
_FIELD = re.compile(r"[a-z_][a-z0-9_]*")
_TYPE_NAMES = frozenset({"str", "int", "float", "bool", "bytes", "none"})
_WHOLE, _NUMBER, _BOOLEAN = "must be a whole number", "must be a number", "must be true or false"
_STRING, _ARRAY, _OBJECT = "must be a string", "must be an array", "must be an object"
_TIME, _UUID = "must be a date and time like 2026-01-31T12:00:00Z", "must be a UUID"

# By pydantic's error type. A union reports each branch's; demands for a type are joined by "or".
_TYPE_DEMANDS = {
    "string_type": _STRING,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": "must be a smaller number",
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "must be a finite number",
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "list_type": _ARRAY,
    "tuple_type": _ARRAY,
    "set_type": _ARRAY,
    "iterable_type": _ARRAY,
    "dict_type": _OBJECT,
    "mapping_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "dataclass_type": _OBJECT,
    "uuid_type": _UUID,
    "uuid_parsing": _UUID,
    "datetime_type": _TIME,
    "datetime_parsing": _TIME,
    "datetime_from_date_parsing": _TIME,
    "path_type": "must be a path",
    "none_required": "must be null",
}
_DEMANDS = {
    "json_invalid": "is not valid JSON",
    "missing": "is required",
    "extra_forbidden": "is not a known field",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
    "union_tag_invalid": "{discriminator} must be one of {expected_tags}",
    "union_tag_not_found": "{discriminator} is required",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """The problem of a value that is to be named first.

    Attributes:
        path: its place in what was sent; empty: the whole.
        reason: what is demanded of that place, or a sentence about it.
        is_demand: whether the reason continues a sentence that begins with the place's name.
    """

    path: tuple[int | str, ...]
    reason: str
    is_demand: bool

    @property
    def where(self) -> str:
        return ".".join(map(str, self.path))

    def tell(self, name: str) -> str:
        """The problem of the place that the reader knows as `name`; empty: no name."""
        if not name:
            return self.reason
        return f"{name} {self.reason}" if self.is_demand else f"{name}: {self.reason}"


def find_problem(problems: Iterable[Mapping[str, Any]], sent: object = UNKNOWN) -> Problem:
    """The problem to name first.

    Args:
        problems: pydantic's `errors()`, at least one.
        sent: the value that was validated, as parsed JSON. Unknown: an argument's branches of a
            union are left out of its path by what they look like.
    """
    placed = [(_path_in(problem, sent), problem) for problem in problems]
    # Of a union's branches the one that agrees with more of the value fails deeper.
    first = placed[0][0][:1]
    path = max((path for path, _ in placed if path[:1] == first), key=len)
    here = [problem for other, problem in placed if other == path]
    return Problem(path, _describe_demand(here), _is_demand(here[0]))


def describe_problem(
    problems: Iterable[Mapping[str, Any]], sent: object = UNKNOWN
) -> tuple[str, str]:
    """The path of the problem to name first (`messages.0.role`, "" for the whole) and its text."""
    problem = find_problem(problems, sent)
    return problem.where, problem.tell(problem.where)


def tell_place(error: Exception) -> str:
    """Where a document could not be read, to be put behind a sentence; empty: that is not known.

    A parser's own words are left out: they speak of its tokens.
    """
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f": see line {mark.line + 1}, column {mark.column + 1}"
    line, column = getattr(error, "lineno", None), getattr(error, "colno", None)
    return "" if line is None else f": see line {line}, column {column}"


def describe_os_error(error: OSError) -> str:
    """Its reason, like `Permission denied`."""
    return error.strerror or "the system gave no reason"


def _path_in(problem: Mapping[str, Any], sent: object) -> tuple[int | str, ...]:
    if sent is UNKNOWN:
        return tuple(part for part in problem["loc"] if _is_place(part))
    path: list[int | str] = []
    for part in problem["loc"]:
        inner = _look_up(sent, part)
        if inner is not _ABSENT:
            sent = inner
            path.append(part)
    # Without a place, the whole is missing: a request without a body.
    if problem["type"] == "missing" and problem["loc"]:
        path.append(problem["loc"][-1])
    return tuple(path)


def _is_place(part: int | str) -> bool:
    """Whether a part of a location is a field or an index; unions name branches by type."""
    return isinstance(part, int) or (bool(_FIELD.fullmatch(part)) and part not in _TYPE_NAMES)


def _look_up(value: object, part: int | str) -> object:
    if isinstance(value, Mapping):
        return value.get(part, _ABSENT)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return _ABSENT


def _is_demand(problem: Mapping[str, Any]) -> bool:
    return problem["type"] not in ("value_error", "assertion_error")


def _describe_demand(problems: list[Mapping[str, Any]]) -> str:
    wanted = dict.fromkeys(
        _TYPE_DEMANDS[problem["type"]] for problem in problems if problem["type"] in _TYPE_DEMANDS
    )
    if wanted:
        first, *others = wanted
        return " or ".join([first, *(other.removeprefix("must be ") for other in others)])
    problem = problems[0]
    context = {name: _write_limit(value) for name, value in (problem.get("ctx") or {}).items()}
    if not _is_demand(problem):
        # Raised by a validator of ours, so these words are ours.
        return str(context.get("error", "is not valid"))
    return _DEMANDS.get(problem["type"], "is not valid").format_map(context)


def _write_limit(value: object) -> object:
    """A limit as it is written by hand: 4, also where the field is a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
