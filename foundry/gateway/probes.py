"""Probes: alive, and able to answer."""

from fastapi import APIRouter, Depends, Request

from foundry.infra.http import allow_anyone
from foundry.infra.http.readiness import Readiness

PATHS = ("/health", "/ready")

router = APIRouter(dependencies=[Depends(allow_anyone)])


@router.get("/health")
async def report_health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/ready")
async def report_readiness(request: Request) -> dict[str, str]:
    """503 while PostgreSQL is away: no key could be checked."""
    readiness: Readiness = request.app.state.readiness
    await readiness.check_ready()
    return {"status": "ready"}
