"""The test request before an engine gets any other."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from foundry.errors import EngineFailed, InvalidRequest, Overloaded, Unavailable
from foundry.infra.wire.frames import CallContext, Fault, Frame, Head, Kind, Tail, Usage
from foundry.supervisor.engine_proof import prove_answers

NAME = "engine-x-r1"


class FakeUpstream:
    """Answers each test request with frames, or raises."""

    def __init__(self, *answers: list[Frame] | Exception) -> None:
        self.answers = list(answers)
        self.bodies: list[bytes] = []

    async def stream(
        self, app_name: str, operation: str, body: bytes, context: CallContext
    ) -> AsyncIterator[Frame]:
        self.bodies.append(body)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        for frame in answer:
            yield frame


def answer(tokens: int = 4) -> list[Frame]:
    tail = Tail(Usage(3, tokens), "length", {})
    return [Head("vllm").to_frame(), Frame(Kind.DATA, b"4 5 6 7"), tail.to_frame()]


async def test_an_engine_proves_itself_in_one_piece_and_streamed() -> None:
    upstream: Any = FakeUpstream(answer(), answer())
    await prove_answers(upstream, NAME, "smol")
    assert [b'"stream":true' in body for body in upstream.bodies] == [False, True]
    assert all(b'"max_tokens":4,"temperature":0' in body for body in upstream.bodies)


@pytest.mark.parametrize(
    ("answers", "error", "says"),
    [
        ([answer()[:2]], EngineFailed, "broke its answer"),
        ([answer(), answer()[:2]], EngineFailed, "broke its answer"),
        ([answer(), answer(tokens=0)], EngineFailed, "generated nothing"),
        ([[answer()[0], answer()[2]]], EngineFailed, "generated nothing"),
        ([TimeoutError()], Unavailable, "did not answer the test request in time"),
        ([answer(), EngineFailed("the engine's replica died")], Unavailable, "replica died"),
        ([InvalidRequest("no such prompt")], InvalidRequest, "no such prompt"),
        ([Overloaded("full")], Unavailable, "full"),
        (
            [[Head("vllm", fault=Fault.from_error(EngineFailed("the engine died"))).to_frame()]],
            Unavailable,
            "the engine died",
        ),
    ],
)
async def test_only_a_wrong_answer_is_a_failure(
    answers: list[Any], error: type[Exception], says: str
) -> None:
    upstream: Any = FakeUpstream(*answers)
    with pytest.raises(error, match=says):
        await prove_answers(upstream, NAME, "smol")
