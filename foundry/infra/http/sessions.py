"""One database transaction per request, for the routes that ask for it."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession


async def open_transaction(request: Request) -> AsyncIterator[AsyncSession]:
    async with request.app.state.database.begin() as db:
        yield db


# With FastAPI's default scope the commit would run after the response, and a failed one answer 200.
Db = Annotated[AsyncSession, Depends(open_transaction, scope="function")]
