"""A database whose answer to a commit is lost, as when its server dies at that moment."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.errors import CommitUnknown
from foundry.infra.database import Database


def lose_commit(monkeypatch: pytest.MonkeyPatch, database: Database, number: int) -> None:
    """Commit the transaction of that number, counted from 1, and say that it may not have been."""
    begin, seen = database.begin, 0

    @asynccontextmanager
    async def begin_and_lose() -> AsyncIterator[AsyncSession]:
        nonlocal seen
        seen += 1
        ours = seen
        async with begin() as session:
            yield session
        if ours == number:
            raise CommitUnknown("the answer to the commit is lost")

    monkeypatch.setattr(database, "begin", begin_and_lose)
