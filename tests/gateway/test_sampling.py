"""Parameters beyond what an engine takes are refused in our words, before it is asked."""

from typing import Any

import httpx
import orjson
import pytest

from foundry.errors import InvalidRequest
from foundry.gateway.body import parse_body
from foundry.gateway.sampling import RANGES
from foundry.infra.wire.frames import Operation
from tests.gateway.conftest import CHAT, Stand

PROMPT: dict[str, Any] = {"model": "smollm2", "prompt": "Once"}

# Parameters, the one that is refused, and the whole message.
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": 9}, "temperature", "temperature must be a number from 0 to 2, not 9"),
    ({"temperature": -0.1}, "temperature", "temperature must be a number from 0 to 2, not -0.1"),
    ({"temperature": "hot"}, "temperature", 'temperature must be a number from 0 to 2, not "hot"'),
    ({"temperature": True}, "temperature", "temperature must be a number from 0 to 2, not true"),
    ({"top_p": 3}, "top_p", "top_p must be a number above 0 and at most 1, not 3"),
    ({"top_p": 0}, "top_p", "top_p must be a number above 0 and at most 1, not 0"),
    ({"min_p": 1.5}, "min_p", "min_p must be a number from 0 to 1, not 1.5"),
    ({"top_k": -2}, "top_k", "top_k must be a whole number of at least -1, not -2"),
    ({"max_tokens": -1}, "max_tokens", "max_tokens must be a whole number of at least 1, not -1"),
    ({"max_tokens": 0}, "max_tokens", "max_tokens must be a whole number of at least 1, not 0"),
    ({"max_tokens": 1.5}, "max_tokens", "max_tokens must be a whole number of at least 1, not 1.5"),
    (
        {"max_completion_tokens": 0},
        "max_completion_tokens",
        "max_completion_tokens must be a whole number of at least 1, not 0",
    ),
    ({"min_tokens": -1}, "min_tokens", "min_tokens must be a whole number of at least 0, not -1"),
    (
        {"min_tokens": 9, "max_tokens": 4},
        "min_tokens",
        "min_tokens must be at most max_tokens, which is 4, not 9",
    ),
    ({"n": 0}, "n", "n must be a whole number from 1 to 16384, not 0"),
    (
        {"n": 2, "temperature": 0},
        "n",
        "n must be 1 where temperature is 0, not 2: all answers would be alike",
    ),
    (
        {"presence_penalty": 2.5},
        "presence_penalty",
        "presence_penalty must be a number from -2 to 2, not 2.5",
    ),
    (
        {"frequency_penalty": -3},
        "frequency_penalty",
        "frequency_penalty must be a number from -2 to 2, not -3",
    ),
    (
        {"repetition_penalty": 0},
        "repetition_penalty",
        "repetition_penalty must be a number above 0, not 0",
    ),
    (
        {"seed": 2**63},
        "seed",
        "seed must be a whole number from -9223372036854775808 to 9223372036854775807, "
        "not 9223372036854775808",
    ),
    ({"seed": [1]}, "seed", f"seed must be {RANGES['seed']}, not [1]"),
    ({"stop": 7}, "stop", "stop must be a string or an array of strings, not 7"),
    ({"stop": ["a", 1]}, "stop", 'stop must be a string or an array of strings, not ["a",1]'),
    ({"stop": list("abcde")}, "stop", "stop must have at most 4 texts, not 5"),
    ({"stop": ""}, "stop", "stop must not be empty: leave it out to stop nowhere"),
    ({"stop": ["a", ""]}, "stop", "stop must not be empty: leave it out to stop nowhere"),
    (
        {"stream_options": {"include_usage": True}},
        "stream_options",
        "stream_options goes with stream: true",
    ),
]
CHAT_REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        {"logprobs": 5},
        "logprobs",
        "logprobs must be true or false (top_logprobs says how many), not 5",
    ),
    (
        {"logprobs": True, "top_logprobs": 21},
        "top_logprobs",
        "top_logprobs must be a whole number from 0 to 20, not 21",
    ),
    ({"top_logprobs": 2}, "top_logprobs", "top_logprobs goes with logprobs: true"),
]
PROMPT_REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"logprobs": -1}, "logprobs", "logprobs must be a whole number from 0 to 20, not -1"),
    ({"prompt": None}, "prompt", "prompt is required"),
    ({"prompt": ""}, "prompt", "prompt must not be empty"),
    ({"prompt": []}, "prompt", "prompt must not be empty"),
    ({"prompt": 7}, "prompt", "prompt must be a string or an array of strings, not 7"),
    ({"prompt": ["a"] * 1025}, "prompt", "prompt must have at most 1024 items, not 1025"),
]


@pytest.mark.parametrize(("given", "param", "message"), REFUSED + CHAT_REFUSED)
async def test_a_chat_is_refused_before_the_engine_is_asked(
    stand: Stand, client: httpx.AsyncClient, given: dict[str, Any], param: str, message: str
) -> None:
    answer = await client.post("/chat/completions", content=orjson.dumps(CHAT | given))
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": message,
        "type": "invalid_request_error",
        "param": param,
        "code": "invalid_value",
    }
    assert stand.engine.calls == []


@pytest.mark.parametrize(("given", "param", "message"), REFUSED + PROMPT_REFUSED)
def test_a_completion_is_refused_likewise(given: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(orjson.dumps(PROMPT | given), "completions")
    assert (caught.value.message, caught.value.details["param"]) == (message, param)


@pytest.mark.parametrize(
    ("operation", "given"),
    [
        ("chat", dict.fromkeys(RANGES)),
        ("chat", {"temperature": 0, "top_p": 1, "n": 1, "max_tokens": 1, "seed": -1, "top_k": -1}),
        ("chat", {"temperature": 2.0, "presence_penalty": -2, "frequency_penalty": 2}),
        ("chat", {"logprobs": True, "top_logprobs": 20, "n": 2}),
        ("chat", {"logprobs": False, "top_logprobs": 0, "seed": 1e3}),
        ("chat", {"stop": ["a", "b", "c", "d"], "stream": True, "stream_options": {}}),
        ("chat", {"stop": [], "min_tokens": 4, "max_tokens": 4}),
        # Repeats the prompt and ends there.
        ("completions", {"echo": True, "max_tokens": 0, "logprobs": 0}),
        ("completions", {"prompt": [1] * 2000}),
        ("completions", {"prompt": ["a", "b"], "stop": "."}),
    ],
)
def test_what_the_engine_takes_passes(operation: Operation, given: dict[str, Any]) -> None:
    raw = orjson.dumps((CHAT if operation == "chat" else PROMPT) | given)
    assert parse_body(raw, operation).raw == raw


def test_what_was_sent_is_not_repeated_at_length() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(orjson.dumps(CHAT | {"temperature": "x" * 10_000}), "chat")
    assert len(caught.value.message) < 120


def test_numbers_that_no_float_holds_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        parse_body(b'{"model": "m", "prompt": "x", "n": 1e400}', "completions")
