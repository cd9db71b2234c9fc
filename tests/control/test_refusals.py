"""What the control plane does with bad input, strangers and a database that fails."""

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text

from foundry.governance.identity.domain import Role
from foundry.infra.database import Database
from foundry.infra.embedded import postgres
from foundry.infra.http.readiness import Readiness
from tests.control.client import ROWS, Control, new_key, running_control, with_models
from tests.postgres import Server, open_database

pytestmark = pytest.mark.postgres


async def test_health_names_what_fails_and_recovers(
    control: Control, postgres_server: Server
) -> None:
    # Without the second for which a verdict holds.
    control.app.state.readiness = Readiness(control.database, ttl_s=0, timeout_s=30)
    assert (await control.client.get("/health")).json()["status"] == "ok"
    postgres.stop(postgres_server.home)
    try:
        answers = await asyncio.gather(control.client.get("/health"), control.client.get("/models"))
        for answer in answers:
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "database_unavailable"
            assert "PostgreSQL cannot be reached" in answer.json()["error"]["message"]
    finally:
        postgres.start(postgres_server.home)
    assert (await control.client.get("/health")).status_code == 200
    assert (await control.client.get("/models")).json() == {"data": [], "next_cursor": None}


@pytest.mark.parametrize("header", ["", "Bearer nonsense", "Bearer fk_live_short"])
async def test_a_request_without_a_key_is_401(control: Control, header: str) -> None:
    answer = await control.client.get("/models", headers={"authorization": header})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_a_viewer_reads_and_writes_nothing(control: Control) -> None:
    _, key = await new_key(control.database, control.principal, Role.VIEWER)
    headers = {"authorization": f"Bearer {key}"}
    assert (await control.client.get("/models", headers=headers)).status_code == 200
    refused = await control.client.post("/endpoints", json={"model": "x"}, headers=headers)
    assert refused.status_code == 403
    assert refused.json()["error"]["details"] == {"permission": "endpoints:write"}
    assert (await control.client.get("/audit", headers=headers)).status_code == 403


async def test_bodies_are_limited_and_uploads_more_generously(control: Control) -> None:
    large = await control.client.post("/keys", content=b" " * 5000)
    assert large.status_code == 413
    upload = await control.client.post(
        "/datasets/d/versions?filename=t.jsonl", content=b" " * (65 * 1024)
    )
    assert upload.status_code == 413
    assert upload.json()["error"]["code"] == "body_too_large"


async def test_another_tenants_names_are_404(
    control: Control, database: Database, tmp_path: Path
) -> None:
    await with_models(control, tmp_path)
    await control.client.post("/datasets/support/versions?filename=t.jsonl", content=ROWS)
    job = (
        await control.client.post(
            "/jobs/import", json={"name": "m", "source": "bundled:smollm2-135m"}
        )
    ).json()["id"]
    endpoint = (await control.client.post("/endpoints", json={"model": "smol"})).json()["id"]
    async with running_control(database, tmp_path / "objects") as stranger:
        for path in (
            "/models/smol",
            "/models/smol/versions",
            "/models/smol/versions/0.1.0",
            "/models/smol/versions/0.1.0/artifacts",
            "/datasets/support/versions",
            "/datasets/support/versions/1",
            "/datasets/support/versions/1/rows",
            f"/jobs/{job}",
            f"/jobs/{job}/metrics",
            f"/jobs/{job}/logs",
            f"/endpoints/{endpoint}",
            f"/budsim/recommendations/{uuid4()}",
            f"/budsim/recommendations/{uuid4()}/pareto",
        ):
            assert (await stranger.client.get(path)).status_code == 404, path
        for path in (f"/jobs/{job}/cancel", f"/endpoints/{endpoint}/deploy"):
            assert (await stranger.client.post(path)).status_code == 404, path
        assert (await stranger.client.delete(f"/endpoints/{endpoint}")).status_code == 404
        for path in ("/models", "/datasets", "/jobs", "/endpoints"):
            assert (await stranger.client.get(path)).json()["data"] == [], path


@pytest.mark.parametrize(
    "path",
    ["/models", "/datasets", "/jobs", "/endpoints", "/keys", "/audit", "/budsim/recommendations"],
)
@pytest.mark.parametrize("cursor", ["x", "bm90IGpzb24", "WyIiLCJhIl0", "AAAA", "%00"])
async def test_a_forged_cursor_is_a_400(control: Control, path: str, cursor: str) -> None:
    answer = await control.client.get(f"{path}?cursor={cursor}")
    assert answer.status_code == 400
    assert "cursor" in answer.json()["error"]["message"]


async def test_unknown_routes_and_ids_have_the_error_body(control: Control) -> None:
    for path in ("/nope", f"/jobs/{uuid4()}", f"/endpoints/{uuid4()}", "/models/none"):
        answer: httpx.Response = await control.client.get(path)
        assert answer.status_code == 404
        assert set(answer.json()["error"]) >= {"message", "type", "param", "code"}


NUL_BODIES: list[tuple[str, str, dict[str, object] | None]] = [
    ("GET", "/models?q=%00", None),
    ("GET", "/models?kind=%00", None),
    ("GET", "/models/smol/versions/%00", None),
    ("GET", "/audit?resource_id=%00", None),
    ("DELETE", "/keys/%00", None),
    ("POST", "/keys", {"name": "a\0b"}),
    ("POST", "/keys", {"name": "\ud800"}),
    ("POST", "/jobs/import", {"name": "m", "source": "file:///a\0b"}),
    ("POST", "/endpoints", {"model": "\ud800"}),
    ("PUT", "/models/smol/aliases/x", {"version": "\0", "expected_version_id": None}),
    ("POST", "/datasets/d/versions?filename=%00.jsonl", None),
]


@pytest.mark.parametrize(("method", "path", "body"), NUL_BODIES)
async def test_text_that_cannot_be_stored_is_the_callers_mistake(
    control: Control, tmp_path: Path, method: str, path: str, body: dict[str, object] | None
) -> None:
    await with_models(control, tmp_path)
    # json.dumps keeps the lone surrogate as an escape, as a hostile client would.
    content = json.dumps(body).encode() if body is not None else ROWS
    answer = await control.client.request(
        method, path, content=content if body or "filename" in path else None
    )
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["message"]


async def test_a_commit_that_fails_is_not_answered_with_success(
    control: Control, postgres_server: Server, database_url: str
) -> None:
    async with (
        open_database(postgres_server.owned(database_url)) as owner,
        owner.begin() as db,
    ):
        await db.execute(
            text(
                "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'at commit'; END $$"
            )
        )
        await db.execute(
            text(
                "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON api_keys "
                "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()"
            )
        )
    answer = await control.client.post("/keys", json={"name": "ci"})
    assert answer.status_code == 500
    assert "key" not in answer.json()
    assert "at commit" not in answer.text
    assert [key["name"] for key in (await control.client.get("/keys")).json()["data"]] == ["test"]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("limti=3", "there is no parameter limti: did you mean limit?"),
        ("zzz=1", "there is no parameter zzz, only cursor, limit, ref, state"),
    ],
)
async def test_a_parameter_that_would_be_ignored_is_refused(
    control: Control, query: str, says: str
) -> None:
    answer = await control.client.get(f"/jobs?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == says
