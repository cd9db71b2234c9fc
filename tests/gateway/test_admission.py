"""The steps of admission: their order, and that what they took is given back."""

from collections.abc import Callable
from typing import Any

import pytest

from foundry.errors import Conflict, Overloaded
from foundry.gateway.ports import End
from tests.fakes.admission import Steps
from tests.fakes.engine import FakeEngine
from tests.gateway.conftest import Stand

CHAT: dict[str, Any] = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("streamed", [False, True])
async def test_the_order_and_the_unwinding(
    make_stand: Callable[..., Stand], streamed: bool
) -> None:
    steps = Steps()
    stand = make_stand(FakeEngine(), admission=steps.admission())
    async with stand.client() as client:
        answer = await client.post("/chat/completions", json=CHAT | {"stream": streamed})
    assert answer.status_code == 200
    assert steps.log == ["+rate", "+claim", "+reserve", "-reserve", "-claim"]
    (admittee,) = steps.asked
    assert admittee.request_id == answer.headers["x-request-id"]
    assert admittee.action == "inference:invoke"
    assert b'"smollm2"' in admittee.body


@pytest.mark.parametrize(
    ("step", "log"),
    [("rate", []), ("claim", ["+rate"]), ("reserve", ["+rate", "+claim", "-claim"])],
)
async def test_a_refusal_gives_back_what_was_taken(
    make_stand: Callable[..., Stand], step: str, log: list[str]
) -> None:
    steps = Steps(refusals={step: Conflict("the key is in use")})
    stand = make_stand(FakeEngine(), admission=steps.admission())
    async with stand.client() as client:
        answer = await client.post("/chat/completions", json=CHAT)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert steps.log == log
    assert stand.engine.calls == []
    assert [s.end for s in stand.meter.settled] == [End.REFUSED]


async def test_policy_and_resolution_come_before_the_limits(
    make_stand: Callable[..., Stand],
) -> None:
    steps = Steps(refusals={"rate": Overloaded("slow down")})
    stand = make_stand(FakeEngine(), admission=steps.admission())
    async with stand.client({"authorization": "Bearer narrow"}) as client:
        denied = await client.post("/chat/completions", json=CHAT)
        missing = await client.post("/chat/completions", json=CHAT | {"model": "nope"})
        allowed = await client.post(
            "/chat/completions", json=CHAT | {"model": "support-bot@production"}
        )
    assert (denied.status_code, denied.json()["error"]["code"]) == (403, "permission_denied")
    assert denied.json()["error"]["param"] == "model"
    assert missing.status_code == 404
    assert allowed.status_code == 503
