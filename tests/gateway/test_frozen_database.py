"""A PostgreSQL that is frozen (SIGSTOP): refused in time, and used again when it goes on."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import httpx
import psutil
import pytest
from sqlalchemy import text

from foundry.config import DatabaseSettings, HttpSettings
from foundry.errors import DatabaseUnavailable
from foundry.gateway.app import create_gateway
from foundry.governance.identity.service import Authenticator
from foundry.infra.database import Database
from foundry.infra.embedded import postgres
from foundry.serving.endpoints.service import Routing
from tests.control.client import PEPPER, SECURITY, administrator, new_key
from tests.fakes.engine import FakeEngine, FakeUpstream
from tests.gateway.conftest import RecordingMeter
from tests.postgres import Server, running_server

pytestmark = pytest.mark.postgres
# Whatever was cancelled is closed within 2 s by SQLAlchemy; the rest is a loaded machine's.
LATE_S = 15.0
CHAT = {"model": "nope", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of these tests' own: they stop it."""
    with running_server() as started:
        yield started


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    pid = postgres.find_running_pid(server.home)
    assert pid is not None
    postmaster = psutil.Process(pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


@dataclass
class Timed:
    client: httpx.AsyncClient

    async def ask(self, path: str, limit_s: float = LATE_S) -> tuple[int, str | None]:
        started = time.monotonic()
        method = "POST" if path == "/chat/completions" else "GET"
        answer = await self.client.request(method, path, json=CHAT if method == "POST" else None)
        assert time.monotonic() - started < limit_s
        error = answer.json().get("error") or {}
        return answer.status_code, error.get("code")


@asynccontextmanager
async def gateway(
    server: Server, *, command_timeout_s: float, request_timeout_s: float
) -> AsyncIterator[Timed]:
    settings = DatabaseSettings(
        pool_size=2, connect_timeout_s=command_timeout_s, command_timeout_s=command_timeout_s
    )
    async with server.migrated() as url, Database(url, settings) as database:
        caller = await administrator(database, "frozen")
        _, key = await new_key(database, caller)
        authenticator = Authenticator(database, PEPPER, SECURITY)
        app = create_gateway(
            database=database,
            authenticator=authenticator,
            routing=Routing(database, max_model_len=2048),
            upstream=FakeUpstream(FakeEngine()),
            meter=RecordingMeter(),
            settings=HttpSettings(request_timeout_s=request_timeout_s),
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://gateway", headers=headers
        ) as client:
            yield Timed(client)
        authenticator.close()


@pytest.mark.parametrize(
    ("command_timeout_s", "request_timeout_s", "refusal"),
    [
        (2.0, 60.0, (503, "database_unavailable")),
        (60.0, 3.0, (504, "deadline_exceeded")),
    ],
)
async def test_requests_are_refused_in_time_and_answered_afterwards(
    server: Server, command_timeout_s: float, request_timeout_s: float, refusal: tuple[int, str]
) -> None:
    async with gateway(
        server, command_timeout_s=command_timeout_s, request_timeout_s=request_timeout_s
    ) as timed:
        with frozen(server):
            asked = [timed.ask("/chat/completions"), timed.ask("/models"), timed.ask("/ready")]
            chat, models, ready = await asyncio.gather(*asked)
            assert (chat, models) == (refusal, refusal)
            assert ready == (503, "database_unavailable")
            assert await timed.ask("/health") == (200, None)
        async with asyncio.timeout(60):
            while await timed.ask("/ready") != (200, None):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert await timed.ask("/models") == (200, None)
        assert await timed.ask("/chat/completions") == (404, "model_not_found")


async def test_a_command_that_is_left_unanswered_is_an_unreachable_database(
    server: Server,
) -> None:
    settings = DatabaseSettings(pool_size=1, connect_timeout_s=1, command_timeout_s=0.3)
    async with server.migrated() as url, Database(url, settings) as database:
        with pytest.raises(DatabaseUnavailable, match="PostgreSQL cannot be reached"):
            async with database.begin() as db:
                await db.execute(text("SELECT 1"))
                with frozen(server):
                    await db.execute(text("SELECT 1"))
        await database.ping()
