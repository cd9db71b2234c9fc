"""What a user meets when something breaks, and that it heals by itself."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import httpx
import openai
import psutil
import pytest

from foundry.infra.embedded import postgres
from foundry.infra.embedded.processes import members
from foundry.infra.embedded.state import stack_id
from tests.integration.conftest import Stack
from workflows.demo import BASE

pytestmark = pytest.mark.engine

LONG = {
    "model": BASE,
    "messages": [{"role": "user", "content": "Write a long story about the sea."}],
    "max_tokens": 1500,
    "ignore_eos": True,
    "stream": True,
}


def _engine_worker(stack: Stack) -> psutil.Process:
    """The process in which the model runs."""
    return next(_titled(stack, "VLLM::Worker"))


def _titled(stack: Stack, title: str) -> Iterator[psutil.Process]:
    for process in members(stack_id(stack.home)):
        with suppress(psutil.Error):
            if title in "".join(process.cmdline()[:1]):
                yield process


def _stream(stack: Stack) -> httpx.Client:
    headers = {"authorization": f"Bearer {stack.api_key}"}
    return httpx.Client(base_url=stack.url, headers=headers, timeout=120, trust_env=False)


def _until(what: Callable[[], bool], timeout_s: float) -> None:
    """Fails unless it holds in time."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < timeout_s, "it did not recover"
        time.sleep(0.5)


def _answers(stack: Stack) -> bool:
    with stack.openai() as client:
        try:
            answer = client.chat.completions.create(
                model=BASE, messages=[{"role": "user", "content": "Hello"}], max_tokens=2
            )
        except openai.APIError:
            return False
    return answer.choices[0].finish_reason in {"stop", "length"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, None),
        (json.dumps({**LONG, "messages": "hello"}).encode(), 400, None),
        (
            json.dumps(
                {"model": BASE, "messages": [{"role": "user", "content": "sea " * 5000}]}
            ).encode(),
            400,
            "context_length_exceeded",
        ),
        (json.dumps({**LONG, "max_tokens": 10**6}).encode(), 400, "context_length_exceeded"),
    ],
)
def test_a_request_at_fault_is_told_what_is_wrong(
    stack: Stack, body: bytes, status: int, code: str | None
) -> None:
    with _stream(stack) as client:
        answer = client.post("/v1/chat/completions", content=body)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    if code is not None:
        assert error["code"] == code


def test_a_client_that_leaves_frees_the_engine(stack: Stack) -> None:
    worker = _engine_worker(stack)
    with _stream(stack) as client, client.stream("POST", "/v1/chat/completions", json=LONG) as sent:
        chunks = sent.iter_text()
        for _ in range(5):
            next(chunks)
    time.sleep(1.0)
    before = sum(worker.cpu_times()[:2])
    time.sleep(2.0)
    assert sum(worker.cpu_times()[:2]) - before < 0.5


@pytest.mark.long(reason="the engine starts again")
def test_an_engine_that_dies_ends_its_streams_with_an_error(stack: Stack) -> None:
    """A stream that stops must not look like an answer that is complete."""
    with _stream(stack) as client, client.stream("POST", "/v1/chat/completions", json=LONG) as sent:
        text, killed = "", False
        for chunk in sent.iter_text():
            text += chunk
            if not killed and text.count("data: ") > 5:
                _engine_worker(stack).kill()
                killed = True
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert "[DONE]" not in events
    assert json.loads(events[-1])["error"]["message"]
    _until(lambda: _answers(stack), timeout_s=240)


def test_without_postgresql_requests_fail_clearly_and_recover(stack: Stack) -> None:
    assert postgres.stop(stack.home) > 0
    with _stream(stack) as client:
        for path in ("/v1/models", "/api/models"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert "PostgreSQL cannot be reached" in answer.text
    up = stack.run("foundry.cli.main", "up")
    assert up.returncode == 0, up.stderr
    with _stream(stack) as client:
        _until(lambda: client.get("/v1/models").status_code == 200, timeout_s=60)
        assert client.get("/api/models").status_code == 200
    assert _answers(stack)
