"""A supervisor with a scripted cluster, for tests that need endpoints which run."""

from foundry.infra.database import Database
from foundry.supervisor.decisions import Limits
from foundry.supervisor.endpoints import EndpointReconciler, LeasedRows
from foundry.supervisor.lease import Lease
from foundry.supervisor.ports import EngineObservation
from tests.fakes.cluster import FakeEngines

_PASSES = 20


class Cluster:
    """Engines that come up at once, unless a test says otherwise; a test moves its clock."""

    def __init__(self, database: Database, engines: FakeEngines | None = None) -> None:
        self.engines = engines or FakeEngines(comes_up="running")
        self.lease = Lease(database)
        self.now = 0.0
        rows = LeasedRows(database, self.lease)
        self.reconciler = EndpointReconciler(
            rows, self.engines, Limits(60.0, 120.0), lambda: self.now
        )

    async def reconcile(self) -> None:
        """One pass, and every step that it began."""
        assert await self.lease.take_or_renew()
        await self.reconciler.reconcile()
        await self.reconciler.tasks.drain()
        await self.lease.give_up()

    async def settle(self) -> None:
        """Passes until one calls nothing. What drains has its deadline still ahead."""
        for _ in range(_PASSES):
            before = len(self.engines.calls)
            await self.reconcile()
            if len(self.engines.calls) == before:
                return
        raise AssertionError("the cluster does not come to rest")

    async def see(self, app_name: str, engine: EngineObservation) -> None:
        """Let an engine look like this, and the supervisor look at it."""
        self.engines.applications[app_name] = engine
        await self.reconcile()


async def run_endpoints(database: Database) -> Cluster:
    """Let every endpoint that is to run do so."""
    cluster = Cluster(database)
    await cluster.settle()
    return cluster
