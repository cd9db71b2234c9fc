"""PostgreSQL: the only source of truth."""

import logging
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import ClassVar, Self
from uuid import UUID

from asyncpg.exceptions import (
    CannotConnectNowError,
    ClientConfigurationError,
    ConnectionDoesNotExistError,
    DataError,
    InvalidAuthorizationSpecificationError,
    InvalidCatalogNameError,
    InvalidPasswordError,
    PostgresConnectionError,
    PostgresError,
    TooManyConnectionsError,
)
from sqlalchemy import DateTime, MetaData, Uuid, event, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from foundry.config import DatabaseSettings
from foundry.errors import CommitUnknown, DatabaseUnavailable, FoundryError, InvalidRequest

log = logging.getLogger(__name__)

# A connection that was used within so many seconds is handed out without a ping.
_FRESH_S = 1.0
_USED_AT = "foundry_used_at"
_UNREACHABLE = (
    CannotConnectNowError,
    ClientConfigurationError,
    ConnectionDoesNotExistError,
    InvalidAuthorizationSpecificationError,
    InvalidCatalogNameError,
    InvalidPasswordError,
    PostgresConnectionError,
    TooManyConnectionsError,
    ConnectionError,
    OSError,
    PoolTimeout,
)


class Base(DeclarativeBase):
    """Declarative base; constraint names are stable so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {
        datetime: DateTime(timezone=True),
        UUID: Uuid(),
        dict[str, object]: JSONB(),
        list[str]: JSONB(),
    }


def utcnow() -> datetime:
    return datetime.now(UTC)


def is_unreachable(error: BaseException) -> bool:
    """Whether `error` says that PostgreSQL cannot be reached, as opposed to a refused statement."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or (
            error.orig is not None and is_unreachable(error.orig.__cause__ or error.orig)
        )
    return isinstance(error, _UNREACHABLE)


def explain_unreachable(error: BaseException) -> str:
    """Why PostgreSQL cannot be reached and what to do, for whoever sets an installation up."""
    cause = error
    while isinstance(cause, DBAPIError) and cause.orig is not None:
        cause = cause.orig.__cause__ or cause.orig
    if isinstance(cause, InvalidPasswordError | InvalidAuthorizationSpecificationError):
        return "it refuses the role: check its name and password, and the server's pg_hba.conf"
    if isinstance(cause, InvalidCatalogNameError):
        return "it has no database of that name: create it first"
    if isinstance(cause, ClientConfigurationError | ssl.SSLError):
        return (
            "its certificate is not trusted: set PGSSLROOTCERT to the certificate of the authority "
            "that signed it, and check the server's name in the URL"
        )
    return "check its address, and that it runs"


def is_unstorable(error: BaseException) -> bool:
    """Whether PostgreSQL refused a value: NUL, half a surrogate pair, a number too large."""
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else None
    return isinstance(cause, DataError)


def is_rolled_back(error: BaseException) -> bool:
    """Whether nothing of a transaction that ended with `error` was committed, for certain.

    When the answer to a commit is lost, or the caller is cancelled while it waits for it, the rows
    may be there: whoever then deletes the files that they name destroys what was stored.
    """
    return isinstance(error, FoundryError) and not isinstance(error, CommitUnknown)


def _make_unavailable_error(cause: BaseException, *, commits: bool = False) -> DatabaseUnavailable:
    log.warning("PostgreSQL cannot be reached: %r", cause)
    recovers = "It recovers by itself when the database is back: see `foundry status`"
    if commits:
        return CommitUnknown(
            "PostgreSQL went away while a change was stored, which may be there or not: "
            f"look before you repeat it. {recovers}"
        )
    return DatabaseUnavailable(
        f"PostgreSQL cannot be reached; the request changed nothing. {recovers}"
    )


class _Unanswered(ConnectionError):
    """A command ran into the client's own timeout."""


def _give_up_connection(context: ExceptionContext) -> None:
    """A server that leaves a command unanswered will not answer a rollback either."""
    if isinstance(context.original_exception, TimeoutError):
        context.is_disconnect = True
        raise _Unanswered("PostgreSQL left a command unanswered") from context.original_exception


def _remember_use(_: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
    record.info[_USED_AT] = time.monotonic()


class Database:
    """One process's connection pool."""

    def __init__(self, url: str, settings: DatabaseSettings) -> None:
        self._engine: AsyncEngine = create_async_engine(
            url,
            pool_size=settings.pool_size,
            max_overflow=settings.pool_size,
            pool_timeout=settings.connect_timeout_s,
            hide_parameters=True,
            connect_args={
                "timeout": settings.connect_timeout_s,
                "command_timeout": settings.command_timeout_s,
                "server_settings": {
                    "statement_timeout": str(int(settings.statement_timeout_s * 1000)),
                    "application_name": "foundry",
                },
            },
        )
        event.listen(self._engine.sync_engine, "handle_error", _give_up_connection)
        event.listen(self._engine.sync_engine, "checkin", _remember_use)
        event.listen(self._engine.sync_engine, "checkout", self._ping_unless_fresh)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        """A session in one transaction: committed on success, rolled back on any error.

        Raises:
            DatabaseUnavailable: PostgreSQL cannot be reached; nothing was committed.
            CommitUnknown: it went away during the commit. See `is_rolled_back`.
            InvalidRequest: a value cannot be stored; nothing was committed.
        """
        commits = False
        try:
            async with self._sessions.begin() as session:
                await self._connect(session)
                yield session
                commits = True
        except (DBAPIError, PostgresConnectionError, ConnectionError) as error:
            if is_unstorable(error):
                raise InvalidRequest(
                    "a value holds characters or numbers that cannot be stored (such as NUL)"
                ) from error
            if not is_unreachable(error):
                raise
            raise _make_unavailable_error(error, commits=commits) from error

    def _ping_unless_fresh(
        self, connection: DBAPIConnection, record: ConnectionPoolEntry, _: PoolProxiedConnection
    ) -> None:
        """Replace a connection that died while it was idle before a request meets it.

        SQLAlchemy's own `pool_pre_ping` asks at every checkout, which was a quarter of a gateway's
        processor time. One that worked a moment ago is believed: a server that died since fails
        the request either way.
        """
        used_at = record.info.get(_USED_AT)
        if used_at is None or time.monotonic() - used_at < _FRESH_S:
            return
        dialect = self._engine.sync_engine.dialect
        try:
            dialect.do_ping(connection)
        except TimeoutError as error:
            # A frozen server would not answer to a new connection either.
            record.invalidate(error)
            raise _Unanswered("PostgreSQL left a ping unanswered") from error
        except dialect.loaded_dbapi.Error as error:
            # A pool that lost one connection has usually lost all: it believes none of them now.
            raise InvalidatePoolError from error

    async def _connect(self, session: AsyncSession) -> None:
        """Apart from the block, whose own files and deadlines may raise OSError too."""
        try:
            await session.connection()
        except (PoolTimeout, OSError, PostgresError) as error:
            if not is_unreachable(error):
                raise
            raise _make_unavailable_error(error) from error

    async def ping(self) -> None:
        async with self.begin() as session:
            await session.execute(text("SELECT 1"))

    async def read_identity(self) -> str:
        """Name this database: another server's, or one restored from a dump, has another name."""
        async with self.begin() as session:
            found = await session.execute(
                text(
                    "SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || oid "
                    "FROM pg_database WHERE datname = current_database()"
                )
            )
            return str(found.scalar_one())

    async def close(self) -> None:
        await self._engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
