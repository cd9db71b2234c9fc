"""What each database role may do, on a real server with the real migrations."""

import shutil
import tempfile
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from foundry.config import DatabaseSettings, Settings
from foundry.control.bootstrap import initialise_home
from foundry.infra.database_roles import DatabaseRole
from foundry.infra.embedded import postgres
from foundry.infra.embedded.paths import ensure_home, runtime_dir
from foundry.infra.migrations import upgrade
from foundry.infra.wiring import database_url, open_database
from tests.postgres import Server
from tests.postgres import open_database as open_url

pytestmark = pytest.mark.postgres

_EVENT = (
    "INSERT INTO audit_events (id, tenant_id, at, actor_type, actor_id, credential_id, action, "
    "resource_type, resource_id, outcome, request_id) SELECT gen_random_uuid(), "
    "gen_random_uuid(), now(), 'user', 's', 'c', 'a', 't', 'r', 'ok', 'q'"
)
_DENIED = "permission denied"


async def _run(url: str, statement: str) -> None:
    async with open_url(url) as database, database.begin() as db:
        await db.execute(text(statement))


@pytest.fixture
async def database_name(database_url: str) -> str:
    return database_url.rpartition("/")[2].partition("?")[0]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (DatabaseRole.APP, "UPDATE audit_events SET action = 'x'"),
        (DatabaseRole.APP, "DELETE FROM audit_events"),
        (DatabaseRole.APP, "TRUNCATE audit_events"),
        (DatabaseRole.APP, "ALTER TABLE audit_events DISABLE TRIGGER ALL"),
        (DatabaseRole.APP, "DROP TABLE audit_events"),
        (DatabaseRole.APP, "CREATE TABLE mine (x int)"),
        (DatabaseRole.APP, "UPDATE alembic_version SET version_num = '0001'"),
        (DatabaseRole.APP, "SET ROLE foundry_migrate"),
        (DatabaseRole.GATEWAY, "SELECT * FROM api_keys FOR UPDATE"),
        (DatabaseRole.GATEWAY, _EVENT),
        (DatabaseRole.GATEWAY, "DELETE FROM audit_events"),
        (DatabaseRole.GATEWAY, "INSERT INTO tenants (id, name) VALUES (gen_random_uuid(), 'x')"),
        (DatabaseRole.AUDIT_READER, "SELECT * FROM api_keys"),
        (DatabaseRole.AUDIT_READER, _EVENT),
    ],
)
async def test_the_server_refuses(
    postgres_server: Server, database_name: str, role: DatabaseRole, statement: str
) -> None:
    with pytest.raises(ProgrammingError, match=rf"{_DENIED}|must be owner"):
        await _run(postgres_server.url(database_name, role), statement)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (DatabaseRole.APP, _EVENT),
        (
            DatabaseRole.APP,
            "INSERT INTO tenants (id, name, created_at) SELECT gen_random_uuid(), 'x', now()",
        ),
        (DatabaseRole.APP, "DELETE FROM endpoint_windows"),
        (DatabaseRole.GATEWAY, "SELECT * FROM api_keys"),
        (DatabaseRole.GATEWAY, "UPDATE endpoint_windows SET closed = true"),
        (DatabaseRole.AUDIT_READER, "SELECT * FROM audit_events"),
    ],
)
async def test_the_server_lets_them(
    postgres_server: Server, database_name: str, role: DatabaseRole, statement: str
) -> None:
    await _run(postgres_server.url(database_name, role), statement)


async def test_later_tables_are_the_applications_too(
    postgres_server: Server, database_name: str
) -> None:
    await _run(postgres_server.url(database_name), "CREATE TABLE later (x int)")
    await _run(postgres_server.url(database_name, DatabaseRole.APP), "INSERT INTO later VALUES (1)")
    await _run(postgres_server.url(database_name, DatabaseRole.GATEWAY), "SELECT * FROM later")
    with pytest.raises(ProgrammingError, match=_DENIED):
        await _run(postgres_server.url(database_name, DatabaseRole.GATEWAY), "DELETE FROM later")


async def test_a_home_of_the_single_role_is_taken_over() -> None:
    """Before 0008 the administrator owned every table and the application was it."""
    home = Path(tempfile.mkdtemp(prefix="fdry-test-"))
    settings = Settings(home=home)
    try:
        ensure_home(home)
        postgres.start(home)
        await upgrade(database_url(settings, DatabaseRole.MIGRATE), "0005")
        postgres.execute_sql(home, f"REASSIGN OWNED BY foundry_migrate TO foundry; {_EVENT}")
        postgres.start(home)
        assert await initialise_home(settings) is not None
        async with open_database(settings) as database, database.begin() as db:
            owners = await db.execute(
                text("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
            )
            assert owners.scalars().all() == ["foundry_migrate"]
            assert (await db.execute(text("SELECT count(*) FROM audit_events"))).scalar() == 2
        with pytest.raises(DBAPIError, match=_DENIED):
            await _run(database_url(settings), "DELETE FROM audit_events")
    finally:
        postgres.stop(home)
        shutil.rmtree(home)
        shutil.rmtree(runtime_dir(home), ignore_errors=True)


def test_an_external_server_has_a_url_per_role_or_one_for_all() -> None:
    one = DatabaseSettings(url=SecretStr("postgresql+asyncpg://app@db/f"))
    assert (
        database_url(Settings(database=one), DatabaseRole.MIGRATE)
        == "postgresql+asyncpg://app@db/f"
    )
    several = one.model_copy(
        update={"migration_url": SecretStr("m://"), "gateway_url": SecretStr("g://")}
    )
    found = Settings(database=several)
    assert [
        database_url(found, role)
        for role in (DatabaseRole.MIGRATE, DatabaseRole.GATEWAY, DatabaseRole.APP)
    ] == [
        "m://",
        "g://",
        "postgresql+asyncpg://app@db/f",
    ]
