"""Probes: alive, and able to answer."""

from fastapi import APIRouter, Depends, Request

from foundry.infra.http import allow_anyone
from foundry.infra.http.readiness import Readiness

PATHS = ("/health", "/ready")

router = APIRouter(tags=["inference"], dependencies=[Depends(allow_anyone)])


@router.get("/health", operation_id="inference_health")
async def report_health() -> dict[str, str]:
    """Tell that the gateway is alive."""
    return {"status": "ok"}


@router.get("/ready", operation_id="inference_ready")
async def report_readiness(request: Request) -> dict[str, str]:
    """Tell that requests can be answered.

    Without PostgreSQL they cannot: no key could be checked.
    """
    readiness: Readiness = request.app.state.readiness
    await readiness.check_ready()
    return {"status": "ready"}
