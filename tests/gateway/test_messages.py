"""What a chat's messages must look like; problems are named by their place in the request."""

from typing import Any

import httpx
import orjson
import pytest

from foundry.errors import InvalidRequest, UnsupportedFeature
from foundry.gateway.body import THREAD_BYTES, parse_body, parse_body_off_loop
from foundry.gateway.messages import MAX_MESSAGES, check_messages
from foundry.infra.http.sizes import MAX_BRACKETS, MAX_COMMAS
from tests.gateway.conftest import Stand

URL = {"url": "http://169.254.169.254/"}


def user(content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}]


def calling(call: object) -> list[dict[str, object]]:
    return [{"role": "assistant", "tool_calls": [call]}]


INVALID: list[tuple[Any, str, str]] = [
    ("hi", "messages", "messages must be an array"),
    ([], "messages", "messages must have at least one item"),
    (user([]), "messages.0.content", "messages.0.content must have at least one part"),
    (["hi"], "messages.0", "messages.0 must be an object"),
    ([{"content": "x"}], "messages.0.role", "messages.0.role is required"),
    ([{"role": 1, "content": "x"}], "messages.0.role", "messages.0.role must be a string"),
    ([{"role": "user"}], "messages.0.content", "messages.0.content is required"),
    (
        user(True),
        "messages.0.content",
        "messages.0.content must be a string or an array of parts",
    ),
    (user([{"text": "hi"}]), "messages.0.content.0.type", "messages.0.content.0.type is required"),
    (
        user([{"image_url": URL}]),
        "messages.0.content.0.type",
        "messages.0.content.0.type is required",
    ),
    (user(["x"]), "messages.0.content.0", "messages.0.content.0 must be an object with a type"),
    (
        user([{"type": "text", "text": "x"}, {"type": "text"}]),
        "messages.0.content.1.text",
        "messages.0.content.1.text is required",
    ),
    (
        user([{"type": "text", "text": 7}]),
        "messages.0.content.0.text",
        "messages.0.content.0.text must be a string",
    ),
    (
        calling({"id": "1"}),
        "messages.0.tool_calls.0.function",
        "messages.0.tool_calls.0.function must be an object",
    ),
    (
        calling({"function": {"name": "f"}}),
        "messages.0.tool_calls.0.function.arguments",
        "messages.0.tool_calls.0.function.arguments is required",
    ),
    ([{}] * (MAX_MESSAGES + 1), "messages", "messages must have at most 8192 items"),
]


@pytest.mark.parametrize(("messages", "place", "text"), INVALID)
async def test_the_place_is_named(
    stand: Stand, client: httpx.AsyncClient, messages: Any, place: str, text: str
) -> None:
    answer = await client.post("/chat/completions", json={"model": "smollm2", "messages": messages})
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": text,
        "type": "invalid_request_error",
        "param": place,
        "code": "invalid_value",
    }
    assert stand.engine.calls == []


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": URL},
        {"type": "video_url", "video_url": URL},
        {"type": "input_audio", "input_audio": {"data": ""}},
        {"type": "prompt_embeds", "data": ""},
        {"type": "image_pil", "image_pil": ""},
        {"type": ["text"]},
    ],
)
@pytest.mark.parametrize("operation", ["chat", "completions"])
def test_only_listed_parts_pass(part: dict[str, Any], operation: Any) -> None:
    messages = [*user("x"), *user([{"type": "text", "text": "x"}, part])]
    body = orjson.dumps({"model": "m", "messages": messages})
    with pytest.raises(UnsupportedFeature) as caught:
        parse_body(body, operation)
    assert caught.value.details["param"] == "messages.1.content.1"
    assert caught.value.message.startswith(
        "messages.1.content.1: only parts of type text or refusal are supported"
    )


def test_a_part_with_uuid_is_refused_for_that() -> None:
    # With a uuid the engine looks at the fields, whatever the type says.
    part = {"type": "text", "text": "x", "uuid": "1", "image_url": URL}
    with pytest.raises(UnsupportedFeature) as caught:
        check_messages(user([part]))
    assert caught.value.details["param"] == "messages.0.content.0.uuid"
    assert caught.value.message == (
        "messages.0.content.0.uuid: parts of type text are supported without uuid; leave it out"
    )


def test_what_openai_allows_passes() -> None:
    check_messages(
        [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "42"},
        ]
    )


def test_a_body_that_is_not_json_names_the_place() -> None:
    with pytest.raises(InvalidRequest, match=r"^the body is not valid JSON: see line 1, column 2$"):
        parse_body(b"{", "chat")


async def test_large_bodies_are_parsed_like_small_ones() -> None:
    body = orjson.dumps({"model": "m", "messages": user("x" * THREAD_BYTES)})
    ask = await parse_body_off_loop(body, "chat")
    assert (ask.model, ask.stream, ask.raw) == ("m", False, body)
    with pytest.raises(InvalidRequest, match=r"messages\.0\.role is required"):
        await parse_body_off_loop(
            orjson.dumps({"model": "m", "messages": [{"x": "x" * THREAD_BYTES}]}), "chat"
        )


@pytest.mark.parametrize(
    "filler", [b"[]," * (MAX_BRACKETS + 1) + b"0", b"1," * (MAX_COMMAS + 1) + b"0"]
)
async def test_a_body_that_is_slow_to_parse_is_refused(
    stand: Stand, client: httpx.AsyncClient, filler: bytes
) -> None:
    body = b'{"model":"smollm2","messages":[{"role":"user","content":"x"}],"x":[' + filler + b"]}"
    answer = await client.post("/chat/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert answer.json()["error"]["message"] == (
        f"the body holds more than {MAX_BRACKETS} opening brackets or {MAX_COMMAS} commas"
    )
    assert stand.engine.calls == []
