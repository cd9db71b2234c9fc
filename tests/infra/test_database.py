"""Which errors mean that PostgreSQL is away, and which are somebody else's."""

import socket

import pytest
from asyncpg.exceptions import (
    InvalidAuthorizationSpecificationError,
    InvalidCatalogNameError,
    InvalidPasswordError,
    UndefinedTableError,
)
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.config import DatabaseSettings
from foundry.errors import CommitUnknown, DatabaseUnavailable, InvalidRequest
from foundry.infra.database import Database, is_rolled_back, is_unreachable


@pytest.mark.postgres
@pytest.mark.parametrize("error", [FileNotFoundError("a file"), TimeoutError("a deadline")])
async def test_the_blocks_own_errors_stay_what_they_are(
    database: Database, error: Exception
) -> None:
    with pytest.raises(type(error), match=str(error)):
        async with database.begin():
            raise error


@pytest.mark.postgres
async def test_a_value_that_cannot_be_stored_is_the_requests_fault(database: Database) -> None:
    with pytest.raises(InvalidRequest, match="cannot be stored"):
        async with database.begin() as session:
            await session.execute(text("SELECT CAST(:value AS text)"), {"value": "a\0b"})


async def test_a_server_that_is_away_is_called_that() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with Database(
        f"postgresql+asyncpg://nobody@127.0.0.1:{port}/none", DatabaseSettings()
    ) as database:
        with pytest.raises(DatabaseUnavailable, match="recovers by itself"):
            await database.ping()


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (InvalidPasswordError("x"), True),
        (InvalidAuthorizationSpecificationError("x"), True),
        (InvalidCatalogNameError("x"), True),
        (UndefinedTableError("x"), False),
    ],
)
def test_a_refused_login_is_a_server_that_cannot_be_reached(error: Exception, away: bool) -> None:
    assert is_unreachable(error) is away


@pytest.mark.postgres
async def test_a_database_that_does_not_exist_is_called_unavailable(database_url: str) -> None:
    url = make_url(database_url).set(database="nowhere").render_as_string(hide_password=False)
    async with Database(url, DatabaseSettings()) as database:
        with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
            await database.ping()


async def _backend(database: Database) -> int:
    async with database.begin() as session:
        return int((await session.execute(text("SELECT pg_backend_pid()"))).scalar_one())


@pytest.mark.postgres
async def test_a_connection_that_died_while_idle_is_replaced_unseen(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry.infra.database._FRESH_S", 0.0)
    async with (
        Database(database_url, DatabaseSettings()) as database,
        Database(database_url, DatabaseSettings()) as other,
    ):
        died = await _backend(database)
        async with other.begin() as session:
            await session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": died})
        assert await _backend(database) != died


@pytest.mark.postgres
async def test_a_connection_that_worked_a_moment_ago_is_not_asked_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pings: list[object] = []

    def ping(_: object, connection: object) -> bool:
        pings.append(connection)
        return True

    monkeypatch.setattr("sqlalchemy.dialects.postgresql.asyncpg.PGDialect_asyncpg.do_ping", ping)
    async with Database(database_url, DatabaseSettings()) as database:
        assert await _backend(database) == await _backend(database)
        assert pings == []
        monkeypatch.setattr("foundry.infra.database._FRESH_S", 0.0)
        await _backend(database)
        assert len(pings) == 1


async def _end_connection(session: AsyncSession, database_url: str) -> None:
    died = int((await session.execute(text("SELECT pg_backend_pid()"))).scalar_one())
    async with Database(database_url, DatabaseSettings()) as other, other.begin() as its:
        await its.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": died})


@pytest.mark.postgres
async def test_a_connection_that_dies_in_the_commit_is_told_apart(database_url: str) -> None:
    async with Database(database_url, DatabaseSettings()) as database:
        with pytest.raises(CommitUnknown, match="may be there or not") as late:
            async with database.begin() as session:
                await _end_connection(session, database_url)
        assert not is_rolled_back(late.value)
        with pytest.raises(DatabaseUnavailable, match="changed nothing") as early:
            async with database.begin() as session:
                await _end_connection(session, database_url)
                await session.execute(text("SELECT 1"))
        assert is_rolled_back(early.value)
