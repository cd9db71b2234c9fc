"""The supervisor's decisions, on a real PostgreSQL and a scripted cluster."""

import asyncio
from pathlib import Path

import pytest

from foundry.infra.database import Database
from foundry.serving.endpoints.domain import EndpointState as S
from foundry.serving.endpoints.tables import Endpoint
from foundry.supervisor.loop import Chore, Supervisor
from foundry.supervisor.ports import EngineObservation
from tests.fakes.cluster import FakeEngines, FakeLauncher
from tests.governance.identity.principals import principal
from tests.serving.endpoints.test_configuring import Studio
from tests.serving.endpoints.test_service import Floor

pytestmark = pytest.mark.postgres


class Watchtower:
    """A supervisor, its scripted cluster and a clock that a test moves."""

    def __init__(self, database: Database) -> None:
        self.launcher, self.engines = FakeLauncher(), FakeEngines()
        self.now = 1000.0
        self.supervisor = Supervisor(
            database, self.launcher, self.engines, 60.0, clock=lambda: self.now
        )

    async def reconcile_endpoints(self) -> None:
        await self.supervisor.endpoints.reconcile()
        await self.supervisor.endpoints.tasks.drain()


async def reread(database: Database, endpoint: Endpoint) -> tuple[str, str | None]:
    async with database.begin() as db:
        row = await db.get_one(Endpoint, endpoint.id)
        return row.state, row.last_error


async def test_an_endpoint_from_pending_to_running(database: Database, tmp_path: Path) -> None:
    tower, floor = Watchtower(database), Floor(database, tmp_path, principal())
    await floor.models()
    endpoint = await floor.deployed("smol")
    await tower.reconcile_endpoints()
    assert await reread(database, endpoint) == (S.DEPLOYING, None)
    tower.engines.applications[endpoint.app_name] = EngineObservation("running")
    await tower.reconcile_endpoints()
    assert await reread(database, endpoint) == (S.VERIFYING, None)
    await tower.reconcile_endpoints()
    assert await reread(database, endpoint) == (S.RUNNING, None)
    assert tower.engines.verified == [endpoint.app_name]


async def test_a_lost_cluster_is_built_again(database: Database, tmp_path: Path) -> None:
    tower, floor = Watchtower(database), Floor(database, tmp_path, principal())
    await floor.models()
    endpoint = await floor.deployed("smol")
    await floor.run(endpoint)
    await tower.reconcile_endpoints()
    assert (await reread(database, endpoint))[0] == S.PENDING
    await tower.reconcile_endpoints()
    assert tower.engines.applications[endpoint.app_name].status == "starting"


async def test_an_engine_that_restarts_is_degraded_meanwhile(
    database: Database, tmp_path: Path
) -> None:
    tower, floor = Watchtower(database), Floor(database, tmp_path, principal())
    await floor.models()
    endpoint = await floor.deployed("smol")
    await floor.run(endpoint)
    tower.engines.applications[endpoint.app_name] = EngineObservation("starting", "replica died")
    await tower.reconcile_endpoints()
    assert await reread(database, endpoint) == (S.DEGRADED, "replica died")
    tower.engines.applications[endpoint.app_name] = EngineObservation("running")
    await tower.reconcile_endpoints()
    assert await reread(database, endpoint) == (S.RUNNING, None)


@pytest.mark.parametrize("how", ["failed", "late", "mute"])
async def test_an_engine_that_does_not_come_up_fails_with_its_reason(
    database: Database, tmp_path: Path, how: str
) -> None:
    tower, floor = Watchtower(database), Floor(database, tmp_path, principal())
    await floor.models()
    endpoint = await floor.deployed("smol")
    await tower.reconcile_endpoints()
    if how == "failed":
        tower.engines.applications[endpoint.app_name] = EngineObservation("failed", "no memory")
    elif how == "mute":
        tower.engines.applications[endpoint.app_name] = EngineObservation("running")
        tower.engines.fault = "it answers nothing"
        await tower.reconcile_endpoints()
    else:
        tower.now += 61
    await tower.reconcile_endpoints()
    state, error = await reread(database, endpoint)
    assert state == S.FAILED
    expected = {"failed": "no memory", "late": "not ready after 61 s", "mute": "answers nothing"}
    assert expected[how] in str(error)
    assert tower.engines.deleted == [endpoint.app_name]


async def test_a_stopped_endpoint_releases_its_engine(database: Database, tmp_path: Path) -> None:
    tower, floor = Watchtower(database), Floor(database, tmp_path, principal())
    await floor.models()
    endpoint = await floor.deployed("smol")
    await floor.run(endpoint)
    await floor.call(lambda e: e.stop(endpoint.id))
    await tower.reconcile_endpoints()
    assert (await reread(database, endpoint))[0] == S.STOPPED
    assert tower.engines.deleted == [endpoint.app_name]


async def test_a_new_configuration_replaces_the_engine(database: Database, tmp_path: Path) -> None:
    tower, studio = Watchtower(database), Studio(database, tmp_path)
    await studio.models()
    first = await studio.deployed("smol")
    await tower.reconcile_endpoints()
    await studio.run(first)
    await studio.configure(first.id, replicas=2, optimization_method="MANUAL")
    second = await studio.deploy(first.id)
    await tower.reconcile_endpoints()
    assert tower.engines.deleted == [first.app_name]
    assert list(tower.engines.applications) == [second.app_name]
    assert (await reread(database, first))[0] == S.DEPLOYING


async def test_an_endpoint_that_stops_meanwhile_leaves_neither_engine(
    database: Database, tmp_path: Path
) -> None:
    tower, studio = Watchtower(database), Studio(database, tmp_path)
    await studio.models()
    first = await studio.deployed("smol")
    await tower.reconcile_endpoints()
    await studio.run(first)
    await studio.configure(first.id, replicas=2, optimization_method="MANUAL")
    second = await studio.deploy(first.id)
    await studio.call(lambda e: e.stop(first.id))
    await tower.reconcile_endpoints()
    assert tower.engines.deleted == [first.app_name, second.app_name]
    assert tower.engines.applications == {}


async def test_a_chore_that_fails_is_done_again_and_stops_nothing(database: Database) -> None:
    turns, done = 0, asyncio.Event()

    async def work() -> int:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise ValueError("a fault")
        done.set()
        return turns

    supervisor = Supervisor(
        database, FakeLauncher(), FakeEngines(), 60.0, chores=[Chore(work, 0.01)]
    )
    running = asyncio.create_task(supervisor.run())
    await asyncio.wait_for(done.wait(), 10)
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})
    assert turns >= 2
