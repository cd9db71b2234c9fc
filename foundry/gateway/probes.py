"""Probes: alive, and able to answer."""

from typing import Protocol

from fastapi import APIRouter, Depends, Request

from foundry.infra.http import public

PATHS = ("/health", "/ready")

router = APIRouter(dependencies=[Depends(public)])


class Pingable(Protocol):
    async def ping(self) -> None:
        """Raises DatabaseUnavailable."""


@router.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """503 while PostgreSQL is away: no key could be checked."""
    database: Pingable = request.app.state.database
    await database.ping()
    return {"status": "ready"}
