"""The schema's history, on a real server."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

import foundry
from foundry.errors import Unavailable
from foundry.infra.database import Base
from foundry.infra.database_roles import DatabaseRole
from foundry.infra.migrations import downgrade, upgrade
from foundry.serving.endpoints.domain import config_digest
from tests.postgres import Server

pytestmark = pytest.mark.postgres


def _slices_with_tables() -> Iterator[str]:
    """A slice lies in a room: foundry/<room>/<slice>/tables.py."""
    for path in sorted(Path(foundry.__path__[0]).glob("*/*/tables.py")):
        yield ".".join(("foundry", *path.parts[-3:-1], "tables"))


def _differences(connection: Connection) -> list[object]:
    for name in _slices_with_tables():
        importlib.import_module(name)
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    return list(compare_metadata(context, Base.metadata))


async def _inspect(url: str) -> list[object]:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        found = await connection.run_sync(_differences)
    await engine.dispose()
    return found


async def _objects(url: str) -> list[str]:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
                "UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            )
        )
        names = sorted(str(row[0]) for row in rows)
    await engine.dispose()
    return names


async def test_up_down_up_ends_where_it_began(postgres_server: Server) -> None:
    async with postgres_server.empty() as url:
        await upgrade(url)
        first = await _objects(url)
        assert "model_versions" in first
        await upgrade(url)
        assert await _objects(url) == first
        await downgrade(url, "base")
        assert await _objects(url) == ["alembic_version", "alembic_version_pkc"]
        await upgrade(url)
        assert await _objects(url) == first


_RUNNING = (
    "INSERT INTO endpoints (id, tenant_id, project_id, name, model_version_id, model_reference, "
    "desired, state, base_digest, app_name, revision, config, config_generation, progress, "
    "created_by, created_at, updated_at) VALUES ('00000000-0000-0000-0000-00000000000{n}', "
    "'00000000-0000-0000-0000-0000000000aa', '00000000-0000-0000-0000-0000000000bb', 'e{n}', "
    "'00000000-0000-0000-0000-0000000000c{n}', 'm@1', '{desired}', '{state}', 'ab', "
    "'engine-ab-r{n}', {n}, '{{\"b\": 1, \"a\": 2, \"replicas\": 2}}', 1, '{{}}', 'admin', "
    "now(), now())"
)


async def test_running_endpoints_are_adopted_as_revisions(postgres_server: Server) -> None:
    async with postgres_server.empty() as url:
        await upgrade(url, "0005")
        states = [("running", "RUNNING"), ("running", "DEPLOYING"), ("stopped", "STOPPED")]
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.begin() as connection:
            for n, (desired, state) in enumerate(states, 1):
                await connection.execute(
                    text(_RUNNING.format(n=n, desired=desired, state=state).replace(": ", "\\: "))
                )
        await upgrade(url)
        async with engine.connect() as connection:
            found = await connection.execute(
                text(
                    "SELECT e.state, e.serving_revision, e.target_revision, r.app_name, r.state, "
                    "r.desired, r.replicas, r.applied_replicas, r.config_digest, "
                    "r.deadline_at > now() FROM endpoints e JOIN endpoint_revisions r "
                    "ON r.endpoint_id = e.id ORDER BY e.id"
                )
            )
            rows = [tuple(row) for row in found]
        digest = config_digest("ab", {"a": 2, "b": 1, "replicas": 2})
        assert rows == [
            ("RUNNING", 1, 1, "engine-ab-r1", "READY", "running", 2, 2, digest, True),
            ("PENDING", None, 2, "engine-ab-r2", "PENDING", "running", 2, None, digest, True),
            ("STOPPED", None, 3, "engine-ab-r3", "REMOVED", "removed", 2, None, digest, True),
        ]
        await downgrade(url, "0005")
        async with engine.connect() as connection:
            found = await connection.execute(text("SELECT revision FROM endpoints ORDER BY id"))
            assert [row[0] for row in found] == [1, 2, 3]
        await engine.dispose()


async def test_the_rows_describe_the_migrated_schema(postgres_server: Server) -> None:
    async with postgres_server.migrated() as url:
        assert await _inspect(url) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET action = 'x'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
    ],
)
async def test_the_audit_trail_only_grows(postgres_server: Server, statement: str) -> None:
    """Not even for the tables' owner."""
    async with postgres_server.migrated(DatabaseRole.ADMIN) as url:
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO audit_events VALUES (gen_random_uuid(), gen_random_uuid(), null, "
                    "now(), 'user', 'u', 'k', 'model.create', 'model', 'm', 'success', 'r')"
                )
            )
        with pytest.raises(DBAPIError, match="append-only"):
            async with engine.begin() as connection:
                await connection.execute(text(statement))
        await engine.dispose()


async def test_a_table_in_use_is_waited_for_with_a_limit(
    postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foundry.infra.migrations._LOCK_TIMEOUT_S", 1)
    async with postgres_server.empty() as url:
        await upgrade(url, "0008")
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.begin() as busy:
            await busy.execute(text("SELECT count(*) FROM jobs"))
            with pytest.raises(Unavailable, match="was in use for 1 s"):
                await upgrade(url)
        await upgrade(url)
        await engine.dispose()


async def test_the_release_that_still_runs_can_submit_jobs_after_the_migration(
    postgres_server: Server,
) -> None:
    """It names none of the columns that came since."""
    async with postgres_server.empty() as url:
        await upgrade(url, "0008")
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.connect() as connection:
            old = (
                await connection.execute(
                    text(
                        "SELECT column_name FROM information_schema.columns "
                        "WHERE table_name = 'jobs' AND is_nullable = 'NO'"
                    )
                )
            ).scalars()
            known = set(old)
        await upgrade(url)
        async with engine.connect() as connection:
            demanded = (
                await connection.execute(
                    text(
                        "SELECT column_name FROM information_schema.columns WHERE "
                        "table_name = 'jobs' AND is_nullable = 'NO' AND column_default IS NULL"
                    )
                )
            ).scalars()
            assert set(demanded) <= known
        await engine.dispose()
