"""A gateway over fakes: scripted engine, two models, two keys."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from foundry.config import HttpSettings
from foundry.errors import DatabaseUnavailable, ModelNotFound, NoHealthyUpstream, Unauthenticated
from foundry.gateway.app import create_gateway
from foundry.gateway.ports import End, Settlement
from foundry.governance.identity.domain import ModelPolicy, Principal, Role
from foundry.infra.http.admission import Admission
from foundry.infra.http.scopes import Stage
from foundry.infra.wire.frames import Usage
from foundry.serving.endpoints.domain import ServedModel, Target
from tests.fakes.engine import FakeEngine, FakeUpstream

BASE_ID = UUID("00000000-0000-7000-8000-000000000001")
ADAPTER_ID = UUID("00000000-0000-7000-8000-000000000002")
ADAPTER_UID = "a" + "0" * 24
GOOD = {"authorization": "Bearer good"}
CHAT: dict[str, Any] = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}


def caller(*scopes: str) -> Principal:
    """A member whose key reaches no further than `scopes`."""
    return Principal(
        tenant_id=BASE_ID,
        project_id=BASE_ID,
        subject="ada",
        subject_type="user",
        credential_id="testkey00000",
        role=Role.MEMBER,
        scopes=frozenset(scopes),
    )


@dataclass
class FakeAuthenticator:
    down: bool = False
    asked: int = 0

    async def authenticate(self, authorization: str | None) -> Principal:
        self.asked += 1
        if self.down:
            raise DatabaseUnavailable("PostgreSQL cannot be reached")
        if authorization == "Bearer good":
            return caller("inference:invoke")
        if authorization == "Bearer weak":
            return caller()
        if authorization == "Bearer slow":
            await asyncio.sleep(30)
        if authorization == "Bearer narrow":
            return replace(
                caller("inference:invoke"), policy=ModelPolicy(frozenset({"support-bot"}))
            )
        raise Unauthenticated("the API key is missing or wrong")


def target(reference: str, adapter_uid: str | None = None) -> Target:
    return Target(
        endpoint_id=BASE_ID,
        model_version_id=ADAPTER_ID if adapter_uid else BASE_ID,
        model_name="support-bot" if adapter_uid else "smollm2",
        version="0.1.0",
        adapter_uid=adapter_uid,
        base_version_id=BASE_ID,
        app_name="engine-00000000-r1",
        context_length=2048,
        reference=reference,
        revision=1,
    )


class FakeRouting:
    async def resolve(self, principal: Principal, model: str) -> Target:
        if model == "bug":
            raise ZeroDivisionError("a bug of ours")
        if model == "slow":
            await asyncio.sleep(30)
        if model == "smollm2":
            return target(model)
        if model == "support-bot@production":
            return target(model, ADAPTER_UID)
        if model == "stopped":
            raise NoHealthyUpstream("stopped is not running: foundry deploy stopped")
        raise ModelNotFound(f"the model {model!r} does not exist", param="model")

    async def list_models(self, principal: Principal) -> list[ServedModel]:
        return [
            ServedModel("smollm2", 1_700_000_000, None, 2048),
            ServedModel("org/support-bot@production", 1_700_000_001, "smollm2", 2048),
        ]


@dataclass
class RecordingMeter:
    settled: list[Settlement] = field(default_factory=list)

    def settle(self, settlement: Settlement) -> None:
        self.settled.append(settlement)


@dataclass
class FakeDatabase:
    down: bool = False

    async def ping(self) -> None:
        if self.down:
            raise DatabaseUnavailable("PostgreSQL cannot be reached")


@dataclass
class Stand:
    """A gateway and the fakes around it."""

    engine: FakeEngine
    upstream: FakeUpstream
    authenticator: FakeAuthenticator
    database: FakeDatabase
    meter: RecordingMeter
    app: FastAPI

    def client(self, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(
            transport=transport,
            base_url="http://gateway",
            headers=GOOD if headers is None else headers,
        )


def recorded(stand: Stand) -> tuple[End, str | None, Usage | None]:
    (settled,) = stand.meter.settled
    return settled.end, settled.code, settled.usage


def placed(stand: Stand) -> tuple[Stage, int | None, str]:
    """In which stage the one request ended, with which status, and what it had asked for."""
    (settled,) = stand.meter.settled
    return settled.stage, settled.status, settled.operation


@pytest.fixture
def make_stand() -> Callable[..., Stand]:
    def make(
        engine: FakeEngine | None = None, admission: Admission | None = None, **http: float
    ) -> Stand:
        engine = engine or FakeEngine()
        upstream, meter = FakeUpstream(engine), RecordingMeter()
        authenticator, database = FakeAuthenticator(), FakeDatabase()
        app = create_gateway(
            database=database,
            authenticator=authenticator,
            routing=FakeRouting(),
            upstream=upstream,
            meter=meter,
            settings=HttpSettings.model_validate(http),
            admission=admission,
        )
        return Stand(engine, upstream, authenticator, database, meter, app)

    return make


@pytest.fixture
def stand(make_stand: Callable[..., Stand]) -> Stand:
    return make_stand()


@pytest.fixture
async def client(stand: Stand) -> AsyncIterator[httpx.AsyncClient]:
    async with stand.client() as client:
        yield client
