"""A real PostgreSQL for tests: one server per run, one database per test.

Each test gets a copy of a migrated template, so it may commit, race and fail as it likes.
"""

import asyncio
import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from foundry.config import DatabaseSettings
from foundry.infra.database import Database
from foundry.infra.database_roles import DatabaseRole
from foundry.infra.embedded import postgres
from foundry.infra.embedded.paths import runtime_dir
from foundry.infra.migrations import upgrade

_TEMPLATE = "template_foundry"
_SUPERUSER = "tester"
_numbers = itertools.count()


class Server:
    """A running server with a migrated template database."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._password = secrets.token_hex(16)

    def url(self, database: str, role: DatabaseRole = DatabaseRole.ADMIN) -> str:
        """As the administrator: a superuser of the tests' own, whom a password lets in."""
        url = make_url(postgres.build_url(self.home, role)).set(database=database)
        if role is DatabaseRole.ADMIN:
            url = url.set(username=_SUPERUSER, password=self._password)
        return url.render_as_string(hide_password=False)

    async def execute(self, statement: str) -> None:
        engine = create_async_engine(
            self.url("postgres"), poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        async with engine.connect() as connection:
            await connection.execute(text(statement))
        await engine.dispose()

    @asynccontextmanager
    async def empty(self) -> AsyncIterator[str]:
        """The URL of a database without a schema."""
        async with self._created("template1") as name:
            yield self.url(name)

    @asynccontextmanager
    async def migrated(self, role: DatabaseRole = DatabaseRole.APP) -> AsyncIterator[str]:
        """As the application: what it may not do, no test of it can do either."""
        async with self._created(_TEMPLATE) as name:
            yield self.url(name, role)

    def owned(self, url: str) -> str:
        """The same database for its owner, who may change the schema."""
        return self.url(str(make_url(url).database))

    @asynccontextmanager
    async def _created(self, template: str) -> AsyncIterator[str]:
        name = f"test_{os.getpid()}_{next(_numbers)}"
        await self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield name
        finally:
            await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def prepare(self) -> None:
        postgres.execute_sql(
            self.home, f"CREATE ROLE {_SUPERUSER} SUPERUSER LOGIN PASSWORD '{self._password}'"
        )
        # Nothing here needs to survive a power cut.
        await self.execute("ALTER SYSTEM SET fsync = off")
        await self.execute("SELECT pg_reload_conf()")
        await self.execute(f"CREATE DATABASE {_TEMPLATE}")
        await upgrade(self.url(_TEMPLATE))


@contextmanager
def running_server() -> Iterator[Server]:
    home = Path(tempfile.mkdtemp(prefix="fdry-pg-", dir="/tmp"))
    try:
        postgres.start(home)
        server = Server(home)
        asyncio.run(server.prepare())
        yield server
    finally:
        postgres.stop(home)
        shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(runtime_dir(home), ignore_errors=True)


@asynccontextmanager
async def open_database(url: str, pool_size: int = 10) -> AsyncIterator[Database]:
    async with Database(url, DatabaseSettings(pool_size=pool_size)) as database:
        yield database
