"""Desired state and observations, on a real PostgreSQL."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.service import ModelVersion, Registry
from foundry.errors import Conflict, NotFound
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.serving.endpoints.domain import EndpointState
from foundry.serving.endpoints.service import Endpoints, Routing, list_unsettled_endpoints
from foundry.serving.endpoints.tables import Endpoint
from tests.catalog.registry.files import adapter_dir, base_dir
from tests.catalog.registry.test_service import Desk
from tests.governance.identity.principals import principal
from tests.serving.endpoints.cluster import run_endpoints

pytestmark = pytest.mark.postgres
S = EndpointState
T = TypeVar("T")


class Floor:
    """One caller's endpoints, a base `smol` and its adapter `bot@staging`."""

    def __init__(self, database: Database, root: Path, caller: Principal) -> None:
        self.database = database
        self.caller = caller
        self.desk = Desk(database, DirectoryStore(root / "objects"), caller)
        self._root = root

    async def models(self) -> tuple[ModelVersion, ModelVersion]:
        base = await self.desk.register(
            VersionSpec("smol", "base", "import"), base_dir(self._root / "b")
        )
        spec = VersionSpec("bot", "adapter", "sft", base_version_id=base.id)
        bot = await self.desk.register(spec, adapter_dir(self._root / "a"))
        await self.desk.aliases(lambda a: a.set("bot", "staging", "0.1.0", None))
        return base, bot

    async def call(self, use: Callable[[Endpoints], Awaitable[T]]) -> T:
        async with self.database.begin() as db:
            audit = AuditTrail(db, self.caller, "test")
            registry = Registry(db, audit, self.caller)
            return await use(Endpoints(db, audit, self.caller, registry))

    async def deployed(self, model: str) -> Endpoint:
        endpoint, _ = await self.call(lambda e: e.create(model))
        return (await self.call(lambda e: e.deploy(endpoint.id))).row

    async def run(self, endpoint: Endpoint) -> None:
        """Let the supervisor bring it, and whatever else is to run, up."""
        await run_endpoints(self.database)
        assert (await self.call(lambda e: e.get(endpoint.id))).state == S.RUNNING


@pytest.fixture
def floor(database: Database, tmp_path: Path) -> Floor:
    return Floor(database, tmp_path, principal())


async def test_the_life_of_an_endpoint(floor: Floor) -> None:
    await floor.models()
    endpoint, note = await floor.call(lambda e: e.create("smol", config={"max_model_len": 64}))
    assert note is None
    assert await list_unsettled_endpoints(floor.database) == []
    await floor.call(lambda e: e.deploy(endpoint.id))
    (seen,) = await list_unsettled_endpoints(floor.database)
    assert (seen.state, seen.desired, seen.config) == (S.PENDING, "running", {"max_model_len": 64})
    again, _ = await floor.call(lambda e: e.deploy(endpoint.id))
    assert (again.revision, again.serving_revision, again.target_revision) == (1, None, 1)
    cluster = await run_endpoints(floor.database)
    assert (
        await Routing(floor.database, max_model_len=256).resolve(floor.caller, "smol")
    ).context_length == 64
    await floor.call(lambda e: e.stop(endpoint.id))
    with pytest.raises(Conflict, match="is STOPPING"):
        await floor.call(lambda e: e.deploy(endpoint.id))
    await cluster.settle()
    assert (await floor.call(lambda e: e.get(endpoint.id))).state == S.STOPPED
    assert cluster.engines.applications == {}
    second, _ = await floor.call(lambda e: e.deploy(endpoint.id))
    assert second.app_name.endswith("-r2")
    await cluster.settle()
    assert list(cluster.engines.applications) == [second.app_name]
    await floor.call(lambda e: e.delete(endpoint.id))
    await cluster.settle()
    assert cluster.engines.applications == {}
    with pytest.raises(NotFound):
        await floor.call(lambda e: e.get(endpoint.id))
    fresh, note = await floor.call(lambda e: e.create("smol"))
    assert note is None
    assert fresh.id != endpoint.id


async def test_one_base_has_one_endpoint(floor: Floor) -> None:
    await floor.models()
    made = await asyncio.gather(
        *(floor.call(lambda e, name=name: e.create(name)) for name in ["smol", "bot"] * 8)  # type: ignore[misc]
    )
    assert len({answer.row.id for answer in made}) == 1
    assert sum(answer.changed for answer in made) == 1


async def test_two_tenants_engines_have_two_names(database: Database, tmp_path: Path) -> None:
    floors = [Floor(database, tmp_path / str(i), principal()) for i in range(2)]
    for floor in floors:
        (tmp_path / str(floors.index(floor))).mkdir()
        await floor.models()
    names = {(await floor.deployed("smol")).app_name for floor in floors}
    assert len(names) == 2


async def test_a_taken_name_is_refused_and_a_default_one_avoids_it(
    floor: Floor, tmp_path: Path
) -> None:
    await floor.models()
    await floor.call(lambda e: e.create("smol"))
    await floor.desk.register(
        VersionSpec("smol", "base", "import"), base_dir(tmp_path / "next", seed=5)
    )
    with pytest.raises(Conflict, match="is called smol already"):
        await floor.call(lambda e: e.create("smol", name="smol"))
    second, _ = await floor.call(lambda e: e.create("smol"))
    assert second.name == "smol-0.2.0"
