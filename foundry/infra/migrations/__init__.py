"""The schema's history, applied over the application's own driver."""

from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from foundry.errors import DatabaseUnavailable, Unavailable
from foundry.infra.database import explain_unreachable, is_unreachable

# Any constant will do, as long as every release uses the same one.
_LOCK = 0x666F756E647279
_LOCK_TIMEOUT_S = 30
_LOCK_NOT_AVAILABLE = "55P03"


async def upgrade(url: str, revision: str = "head") -> None:
    """Bring the schema to `revision`; concurrent callers wait for the first. Idempotent."""
    await _run_alembic(url, lambda config: command.upgrade(config, revision))


async def downgrade(url: str, revision: str) -> None:
    await _run_alembic(url, lambda config: command.downgrade(config, revision))


async def _run_alembic(url: str, action: Callable[[Config], None]) -> None:
    engine = create_async_engine(url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
            # A change that waits for a long transaction makes everybody else wait behind it.
            await connection.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT_S}s'"))
            await connection.commit()
            await connection.run_sync(_apply_to, action)
            await connection.execute(text(f"SELECT pg_advisory_unlock({_LOCK})"))
            await connection.commit()
    except (DBAPIError, OSError) as error:
        if getattr(getattr(error, "orig", None), "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise Unavailable(
                f"a table that is to change was in use for {_LOCK_TIMEOUT_S} s; what was applied "
                "stays: end the long transaction (see pg_stat_activity) and repeat"
            ) from error
        if not is_unreachable(error):
            raise
        raise DatabaseUnavailable(
            f"PostgreSQL cannot be reached: {explain_unreachable(error)}"
        ) from error
    finally:
        await engine.dispose()


def _apply_to(connection: Connection, action: Callable[[Config], None]) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    action(config)
