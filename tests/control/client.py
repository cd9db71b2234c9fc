"""The control application in this process, with one tenant and keys for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.registrar import Registrar
from foundry.catalog.registry.service import ModelVersion
from foundry.config import (
    HttpSettings,
    ImportSettings,
    RaySettings,
    SecuritySettings,
    ServingSettings,
)
from foundry.control.app import create_control
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import EVERYTHING, Principal, Role
from foundry.governance.identity.service import Authenticator, KeyRing, ensure_home_project
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.http.admission import NoRateLimit
from foundry.serving.recommendations.searching import LiveCluster, Searcher
from tests.catalog.registry.files import adapter_dir, trainable_dir
from tests.control.documented import check_documented, check_error

PEPPER = bytes(range(32))
# The cheapest bcrypt there is: these tests are about routes.
SECURITY = SecuritySettings(bcrypt_cost=4)


@dataclass(frozen=True)
class Sections:
    http: HttpSettings
    serving: ServingSettings = field(default_factory=ServingSettings)
    ray: RaySettings = field(default_factory=RaySettings)
    imports: ImportSettings = field(default_factory=ImportSettings)


@dataclass(frozen=True)
class Control:
    """Attributes: principal: the administrator whose key the client sends."""

    app: FastAPI
    client: httpx.AsyncClient
    principal: Principal
    objects: DirectoryStore
    database: Database

    def audit(self, db: AsyncSession) -> AuditTrail:
        return AuditTrail(db, self.principal, "test")


async def administrator(database: Database, tenant: str) -> Principal:
    async with database.begin() as db:
        tenant_id, project_id = await ensure_home_project(db, tenant, "default")
    return Principal(tenant_id, project_id, "admin", "user", "bootstrap", Role.ADMIN, EVERYTHING)


async def new_key(
    database: Database,
    caller: Principal,
    role: Role = Role.ADMIN,
    scopes: frozenset[str] = EVERYTHING,
) -> tuple[str, str]:
    """The id and the text of a new key."""
    async with database.begin() as db:
        ring = KeyRing(db, AuditTrail(db, caller, "test"), caller, PEPPER, SECURITY)
        made = await ring.create_key(name="test", role=role, scopes=scopes, expires_in_days=1)
        return made.row.id, made.text


@asynccontextmanager
async def running_control(
    database: Database,
    root: Path,
    http: HttpSettings | None = None,
    searcher: Searcher | None = None,
    live: LiveCluster | None = None,
) -> AsyncIterator[Control]:
    caller = await administrator(database, f"tenant-{uuid4()}")
    _, key = await new_key(database, caller)
    objects = DirectoryStore(root)
    authenticator = Authenticator(database, PEPPER, SECURITY)
    app = create_control(
        database=database,
        objects=objects,
        authenticator=authenticator,
        settings=Sections(http or HttpSettings()),
        searcher=searcher,
        live=live,
    )
    transport = httpx.ASGITransport(app, root_path="/api", raise_app_exceptions=False)

    async def check(response: httpx.Response) -> None:
        # Steps that a test brings refuse with what they like.
        if isinstance(app.state.admission.limiter, NoRateLimit):
            check_documented(app, response)
        await response.aread()
        check_error(response)

    async with httpx.AsyncClient(
        transport=transport,
        event_hooks={"response": [check]},
        base_url="http://foundry/api",
        headers={"authorization": f"Bearer {key}"},
    ) as client:
        yield Control(app, client, caller, objects, database)
    await app.state.searches.close()
    authenticator.close()


ROWS = "".join(f'{{"prompt": "say {i}", "completion": "{i}"}}\n' for i in range(40)).encode()


async def register(control: Control, spec: VersionSpec, folder: Path) -> ModelVersion:
    registrar = Registrar(control.database, control.objects, control.principal, "test")
    return await registrar.register(spec, folder)


async def with_models(control: Control, folder: Path) -> tuple[ModelVersion, ModelVersion]:
    base = await register(
        control, VersionSpec("smol", "base", "import"), trainable_dir(folder / "b")
    )
    spec = VersionSpec(
        "support-bot",
        "adapter",
        "sft",
        base_version_id=base.id,
        parent_version_id=base.id,
        metrics={"eval_loss": 0.25},
    )
    return base, await register(control, spec, adapter_dir(folder / "a"))
