"""One endpoint on a real PostgreSQL with a scripted cluster."""

from sqlalchemy import text

from foundry.infra.database import Database
from foundry.serving.endpoints.domain import EndpointState as S
from foundry.serving.endpoints.tables import Endpoint, EndpointRevision
from foundry.supervisor.ports import EngineObservation
from tests.fakes.cluster import FakeEngines
from tests.serving.endpoints.cluster import Cluster
from tests.serving.endpoints.test_configuring import Studio


class Site:
    """One endpoint of `smol`, its scripted cluster and the database's clock."""

    def __init__(self, database: Database, studio: Studio, endpoint: Endpoint) -> None:
        self.database, self.studio, self.id = database, studio, endpoint.id
        self.engines = FakeEngines()
        self.cluster = Cluster(database, self.engines)

    async def row(self) -> Endpoint:
        async with self.database.begin() as db:
            return await db.get_one(Endpoint, self.id)

    async def revision(self, number: int) -> EndpointRevision:
        async with self.database.begin() as db:
            return await db.get_one(EndpointRevision, (self.id, number))

    async def up(self) -> str:
        """Revision 1 serves. Returns its application."""
        await self.cluster.reconcile()
        name = (await self.row()).app_name
        await self.cluster.see(name, EngineObservation("running"))
        assert (await self.row()).state == S.RUNNING
        return name

    async def update(self, **config: object) -> str:
        """Deploy another configuration. Returns the new application's name."""
        await self.studio.configure(self.id, optimization_method="MANUAL", **config)
        target = (await self.studio.deploy(self.id)).target_revision
        assert target is not None
        return (await self.revision(target)).app_name

    async def seconds_left(self, number: int) -> float:
        """Until a revision's deadline, by the database's clock."""
        async with self.database.begin() as db:
            left = text(
                "SELECT extract(epoch FROM deadline_at - now()) FROM endpoint_revisions "
                "WHERE number = :number"
            )
            return float((await db.execute(left, {"number": number})).scalar_one())

    async def let_pass(self, number: int) -> None:
        """A revision's deadline passes by the database's clock."""
        async with self.database.begin() as db:
            await db.execute(
                text(
                    "UPDATE endpoint_revisions SET deadline_at = now() - interval '1 second' "
                    "WHERE number = :number"
                ),
                {"number": number},
            )
