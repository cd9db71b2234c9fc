"""Validation problems in the request's own words, never pydantic's."""

import json
from collections.abc import Callable
from typing import Any, Literal
from uuid import UUID

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from foundry.validation import describe_os_error, describe_problem, find_problem, tell_place


class Text(BaseModel):
    kind: Literal["text"]
    text: str


class Number(BaseModel):
    kind: Literal["number"]
    number: int


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="a", min_length=1, max_length=4, pattern="^[a-z]*$")
    size: int = Field(default=1, gt=0, le=9)
    rate: float = 0.5
    on: bool = True
    owner: UUID | None = None
    mode: Literal["fast", "slow"] = "fast"
    stop: str | list[str] = ""
    parts: list[Text | Number] = Field(default_factory=list, max_length=2)

    @field_validator("rate")
    @classmethod
    def _odd(cls, rate: float) -> float:
        if rate == 13:
            raise ValueError("13 brings bad luck")
        return rate


CASES: list[tuple[object, str, str]] = [
    ({"name": 1}, "name", "name must be a string"),
    ({"name": ""}, "name", "name must have at least 1 characters"),
    ({"name": "abcde"}, "name", "name must have at most 4 characters"),
    ({"name": "A"}, "name", "name must match ^[a-z]*$"),
    ({"size": "x"}, "size", "size must be a whole number"),
    ({"size": 1.5}, "size", "size must be a whole number"),
    ({"size": 0}, "size", "size must be greater than 0"),
    ({"size": 10}, "size", "size must be at most 9"),
    ({"rate": []}, "rate", "rate must be a number"),
    ({"rate": 13}, "rate", "rate: 13 brings bad luck"),
    ({"on": "maybe"}, "on", "on must be true or false"),
    ({"owner": "x"}, "owner", "owner must be a UUID"),
    ({"mode": "x"}, "mode", "mode must be one of 'fast' or 'slow'"),
    ({"stop": {"a": 1}}, "stop", "stop must be a string or an array"),
    ({"stop": ["a", 1]}, "stop.1", "stop.1 must be a string"),
    ({"parts": [{"kind": "text"}]}, "parts.0.text", "parts.0.text is required"),
    ({"parts": 3}, "parts", "parts must be an array"),
    ({"parts": [1]}, "parts.0", "parts.0 must be an object"),
    ({"parts": [{}] * 3}, "parts", "parts must have at most 2 items"),
    ({"nmae": "x"}, "nmae", "nmae is not a known field"),
    ([], "", "must be an object"),
]


@pytest.mark.parametrize(("sent", "path", "text"), CASES)
def test_the_place_and_the_demand(sent: object, path: str, text: str) -> None:
    assert describe(Body, sent) == (path, text)


def describe(kind: Any, sent: object) -> tuple[str, str]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(sent)
    return describe_problem(caught.value.errors(), sent)


@pytest.mark.parametrize(
    ("sent", "path", "text"),
    [
        ({"stop": {"a": 1}}, "stop", "stop must be a string or an array"),
        ({"parts": [{"kind": "text"}]}, "parts.0.text", "parts.0.text is required"),
        ({"size": 0}, "size", "size must be greater than 0"),
        ([], "", "must be an object"),
    ],
)
def test_arguments_of_which_only_the_problem_is_known(sent: object, path: str, text: str) -> None:
    """Branches of unions are left out: they are names of types."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Body).validate_python(sent)
    assert describe_problem(caught.value.errors()) == (path, text)


def test_a_name_that_the_reader_knows_takes_the_places() -> None:
    with pytest.raises(ValidationError) as caught:
        Body(size=0)
    problem = find_problem(caught.value.errors())
    assert problem.tell("--size") == "--size must be greater than 0"
    with pytest.raises(ValidationError) as caught:
        Body(rate=13)
    assert find_problem(caught.value.errors()).tell("--rate") == "--rate: 13 brings bad luck"


def test_json_that_is_none() -> None:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate_json("{")
    assert describe_problem(caught.value.errors(), "{") == ("", "is not valid JSON")


def test_a_problem_without_a_text_of_ours_still_names_its_place() -> None:
    problem = {"type": "url_scheme", "loc": ("link",), "ctx": {}}
    assert describe_problem([problem], {"link": "x"}) == ("link", "link is not valid")


def test_a_whole_that_is_missing_has_no_place() -> None:
    """As FastAPI reports a request without a body."""
    problem = find_problem([{"type": "missing", "loc": (), "msg": "Field required"}], None)
    assert (problem.where, problem.tell("the body")) == ("", "the body is required")


@pytest.mark.parametrize(
    ("read", "text", "place"),
    [
        (yaml.safe_load, "a: b\nc: [", ": see line 2, column 5"),
        (json.loads, '{\n"a" 1}', ": see line 2, column 5"),
        (yaml.safe_load, "a: 2026-13-45", ""),
    ],
)
def test_the_place_of_a_fault_without_the_parsers_words(
    read: Callable[[str], object], text: str, place: str
) -> None:
    with pytest.raises(Exception) as raised:
        read(text)
    assert tell_place(raised.value) == place


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied", "/etc/shadow"), "Permission denied"),
        (OSError("Not a gzipped file (b'aa')"), "the system gave no reason"),
    ],
)
def test_files_error_is_told_by_the_systems_reason(error: OSError, reason: str) -> None:
    assert describe_os_error(error) == reason
