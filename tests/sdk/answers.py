"""Answers of a server that is not there."""

from collections.abc import Callable
from pathlib import Path

import httpx

from foundry.config import Settings
from foundry.sdk import Foundry

Answer = Callable[[httpx.Request], httpx.Response]
AT = "2026-01-02T03:04:05Z"
JOB_ID = "0198f3c2-0000-7000-8000-000000000001"
VERSION_ID = "0198f3c2-0000-7000-8000-000000000002"
ENDPOINT_ID = "0198f3c2-0000-7000-8000-000000000003"
WORKLOAD: dict[str, object] = {"users": 4, "input": {"mean": 512}, "output": {"mean": 128}}
CONFIGURATION: dict[str, object] = {"gpu": "nvidia-l4"}


def client(answer: Answer, home: Path) -> Foundry:
    return Foundry(
        "http://foundry.test",
        "fk_live_test",
        settings=Settings(home=home),
        transport=httpx.MockTransport(answer),
    )


def job(state: str, **fields: object) -> dict[str, object]:
    return {
        "id": JOB_ID,
        "kind": "sft",
        "name": "support-bot",
        "state": state,
        "attempt": 1,
        "failures": 0,
        "priority": 0,
        "waiting_for": None,
        "phase": None,
        "submission_id": None,
        "cancel_requested": False,
        "spec": {},
        "progress": {},
        "error": None,
        "result": None,
        "created_by": "admin",
        "created_at": AT,
        "started_at": None,
        "finished_at": None,
    } | fields


def endpoint(state: str, **fields: object) -> dict[str, object]:
    return {
        "id": ENDPOINT_ID,
        "name": "smol",
        "model": "smol@1.0.0",
        "model_version_id": VERSION_ID,
        "desired": "running",
        "state": state,
        "app_name": "engine-0a1b2c3d-r1",
        "revision": 1,
        "config": {},
        "config_generation": 1,
        "optimization": None,
        "recommendation_id": None,
        "next_config": None,
        "last_error": None,
        "progress": {},
        "created_by": "admin",
        "created_at": AT,
        "updated_at": AT,
    } | fields


def failure(status: int, code: str, message: str, **body: object) -> httpx.Response:
    error = {"message": message, "type": "any", "param": None, "code": code} | body
    return httpx.Response(status, json={"error": error}, headers={"x-request-id": "req-1"})


def fleet(**fields: object) -> dict[str, object]:
    """Progress of a DiLoCo job with a worker that trains and one that heals."""
    return {
        "phase": "training",
        "step": 24,
        "total_steps": 160,
        "loss": 2.34567,
        "round": 3,
        "workers": 2,
        "quorum": 2,
        "fleet": [
            {
                "member": "w0",
                "node": "node-a",
                "state": "training",
                "round": 4,
                "batches": 13,
                "loss": 2.30004,
                "tokens_per_second": 1834.6,
                "sent": 12_300_000,
                "received": 24_600_000,
            },
            {
                "member": "w1",
                "node": "[bold]node-b",
                "state": "healing",
                "round": 0,
                "batches": 0,
                "loss": None,
                "tokens_per_second": 0.0,
                "sent": 0,
                "received": 999,
            },
        ],
        "bytes": {"data": 36_900_999, "heal": 1_500},
        "commits": 3,
        "aborts": 1,
    } | fields
