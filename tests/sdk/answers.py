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
