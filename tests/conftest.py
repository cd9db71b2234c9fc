"""Fixtures of the whole suite."""

from collections.abc import AsyncIterator, Iterator

import pytest

from foundry.infra.database import Database
from tests.postgres import Server, open_database, running_server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
async def database_url(postgres_server: Server) -> AsyncIterator[str]:
    """A migrated database of this test's own."""
    async with postgres_server.migrated() as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as opened:
        yield opened
