"""Problems of a request in the request's own words.

pydantic's errors name classes of ours, branches of unions and its own phrases. What a caller can
use is the place in what was sent and a plain demand: the place is found by walking the sent value
along the error's location and dropping every element that is not in it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

_ABSENT = object()
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
    "none_required": "must be null",
}
_DEMANDS = {
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


def describe_problem(problems: Iterable[Mapping[str, Any]], sent: object) -> tuple[str, str]:
    """The path of the problem to name first (`messages.0.role`, "" for the whole) and its text.

    Args:
        problems: pydantic's `errors()`, at least one.
        sent: the value that was validated, as parsed JSON.
    """
    placed = [(_path_in(problem, sent), problem) for problem in problems]
    # Of a union's branches the one that agrees with more of the value fails deeper.
    first = placed[0][0][:1]
    path = max((path for path, _ in placed if path[:1] == first), key=len)
    here = [problem for other, problem in placed if other == path]
    where = ".".join(map(str, path))
    if here[0]["type"] == "json_invalid":
        return "", "the body is not valid JSON"
    text = _demand(here)
    return where, f"{where} {text}" if where and _is_demand(here[0]) else _joined(where, text)


def _joined(where: str, text: str) -> str:
    return f"{where}: {text}" if where else text


def _path_in(problem: Mapping[str, Any], sent: object) -> tuple[int | str, ...]:
    path: list[int | str] = []
    for part in problem["loc"]:
        inner = _look_up(sent, part)
        if inner is not _ABSENT:
            sent = inner
            path.append(part)
    if problem["type"] == "missing":
        path.append(problem["loc"][-1])
    return tuple(path)


def _look_up(value: object, part: int | str) -> object:
    if isinstance(value, Mapping):
        return value.get(part, _ABSENT)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return _ABSENT


def _is_demand(problem: Mapping[str, Any]) -> bool:
    return problem["type"] not in ("value_error", "assertion_error")


def _demand(problems: list[Mapping[str, Any]]) -> str:
    wanted = dict.fromkeys(
        _TYPE_DEMANDS[problem["type"]] for problem in problems if problem["type"] in _TYPE_DEMANDS
    )
    if wanted:
        first, *others = wanted
        return " or ".join([first, *(other.removeprefix("must be ") for other in others)])
    problem = problems[0]
    context = problem.get("ctx") or {}
    if not _is_demand(problem):
        # Raised by a validator of ours, so these words are ours.
        return str(context.get("error", "is not valid"))
    return _DEMANDS.get(problem["type"], "is not valid").format_map(context)
