"""DiLoCo jobs over HTTP, against a real PostgreSQL."""

import math
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from foundry.config import Settings
from foundry.execution.fleets.domain import FleetEvent, MemberShare, RoundRecord
from foundry.execution.fleets.service import FleetLog
from foundry.execution.jobs.leases import JobLease
from foundry.governance.identity.domain import Role
from foundry.sdk import AsyncFoundry, DilocoConfig, FleetConfig
from tests.control.client import ROWS, Control, administrator, new_key, with_models
from tests.control.conftest import control as control
from tests.execution.jobs.test_leases import start

pytestmark = pytest.mark.postgres
CONFIG: dict[str, Any] = {
    "inner": {"max_seq_len": 64, "max_steps": 2, "method": {"kind": "full"}},
    "fleet": {"workers": 3},
}
BODY: dict[str, Any] = {"name": "bot", "base": "smol", "dataset": "support", "config": CONFIG}


@pytest.fixture(autouse=True)
async def inputs(control: Control, tmp_path: Path) -> None:
    await with_models(control, tmp_path)
    await control.client.post("/datasets/support/versions?filename=t.jsonl", content=ROWS)


async def submitted(control: Control) -> dict[str, Any]:
    answer = await control.client.post("/jobs/diloco", json=BODY)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def trained(control: Control) -> UUID:
    """A job with two committed rounds, the second of which diverged."""
    job_id = UUID((await submitted(control))["id"])
    await start(control.database, job_id)
    lease, _ = await JobLease.claim(control.database, job_id)
    log = FleetLog(control.database, job_id, lease.fence)
    for number, loss in ((1, 2.5), (2, math.nan)):
        share = MemberShare("w0", "node-a", True, 8, 4096, loss, 1.5, 1000, 3000)
        record = RoundRecord(
            number, 0, "ab" * 32, {"total": 16}, (share,), 0, 4.0, loss, None, {"outer": "sha256:1"}
        )
        if number == 2:
            record = RoundRecord(number, 0, "cd" * 32, {"total": 16}, (share,), 1, 5.0, loss)
        await log.commit(record, [FleetEvent(number - 1, "w0", "joined", "node-a")])
    return job_id


async def test_a_job_is_submitted_once_and_pins_its_inputs(control: Control) -> None:
    job = await submitted(control)
    assert (job["kind"], job["state"]) == ("diloco", "QUEUED")
    assert (job["spec"]["base"], job["spec"]["dataset"]) == ("smol@0.1.0", "support@1")
    config = DilocoConfig.model_validate(job["spec"]["config"])
    assert config == DilocoConfig.model_validate(CONFIG)
    # How long the others wait decides no weights; how many there are does.
    patient = {**BODY, "config": {**CONFIG, "fleet": {"workers": 3, "grace_s": 1}}}
    same = await control.client.post("/jobs/diloco", json=patient)
    assert (same.status_code, same.json()["id"]) == (200, job["id"])
    fewer = {**BODY, "config": {**CONFIG, "fleet": {"workers": 2}}}
    assert (await control.client.post("/jobs/diloco", json=fewer)).status_code == 201
    audit = (await control.client.get("/audit")).json()["data"]
    found = next(row for row in audit if row["resource_id"] == job["id"])
    assert (found["action"], found["after"]["kind"]) == ("job.submit", "diloco")


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"base": "nope"}, 404, "the model nope does not exist"),
        ({"base": "support-bot"}, 400, "is an adapter"),
        ({"config": {"inner": {"max_seq_len": 4096}}}, 400, "config.inner.max_seq_len is 4096"),
        ({"config": {"outer": {"lr": 9}}}, 400, "config.outer.lr"),
        ({"config": {"fleet": {"quorum": 3}}}, 400, "quorum must not exceed workers"),
        ({"config": {"lr": 0.1}}, 400, "is not a known field"),
        ({"name": "smol"}, 409, "holds versions of kind base"),
    ],
)
async def test_a_job_that_cannot_run_is_refused_at_once(
    control: Control, change: dict[str, object], status: int, says: str
) -> None:
    answer = await control.client.post("/jobs/diloco", json={**BODY, **change})
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]


async def test_rounds_and_members_are_read_page_by_page(control: Control) -> None:
    job_id = await trained(control)
    first = (await control.client.get(f"/jobs/{job_id}/rounds?limit=1")).json()["data"]
    assert [row["round"] for row in first] == [1]
    second = (await control.client.get(f"/jobs/{job_id}/rounds?after=1")).json()["data"]
    created_at = second[0].pop("created_at")
    assert created_at > first[0]["created_at"]
    assert (first[0]["loss"], first[0]["checkpointed"]) == (2.5, True)
    share = {
        "member": "w0",
        "node": "node-a",
        "merged": True,
        "batches": 8,
        "tokens": 4096,
        "loss": None,
        "train_seconds": 1.5,
        "bytes_sent": 1000,
        "bytes_received": 3000,
    }
    assert second == [
        {
            "round": 2,
            "fragment": 0,
            "digest": "cd" * 32,
            "members": [share],
            "aborts": 1,
            "seconds": 5.0,
            "loss": None,
            "eval_loss": None,
            "checkpointed": False,
        }
    ]
    events = (await control.client.get(f"/jobs/{job_id}/members?after=1")).json()["data"]
    events[0].pop("at")
    joined = {"seq": 2, "round": 1, "member": "w0", "kind": "joined", "detail": "node-a"}
    assert events == [joined]
    assert (await control.client.get(f"/jobs/{job_id}/rounds?limit=201")).status_code == 400


async def test_another_tenant_sees_no_fleet(control: Control) -> None:
    job_id = await trained(control)
    _, key = await new_key(control.database, await administrator(control.database, "others"))
    stranger = {"authorization": f"Bearer {key}"}
    for path in (f"/jobs/{job_id}/rounds", f"/jobs/{job_id}/members"):
        answer = await control.client.get(path, headers=stranger)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_a_viewer_reads_rounds_and_submits_nothing(control: Control) -> None:
    job_id = await trained(control)
    _, key = await new_key(control.database, control.principal, Role.VIEWER)
    viewer = {"authorization": f"Bearer {key}"}
    read = await control.client.get(f"/jobs/{job_id}/rounds", headers=viewer)
    assert [row["round"] for row in read.json()["data"]] == [1, 2]
    refused = await control.client.post("/jobs/diloco", json=BODY, headers=viewer)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")


async def test_the_client_submits_and_reads(control: Control, tmp_path: Path) -> None:
    job_id = await trained(control)
    key = control.client.headers["authorization"].removeprefix("Bearer ")
    transport = httpx.ASGITransport(control.app, root_path="/api", raise_app_exceptions=False)
    settings = Settings(home=tmp_path)
    async with AsyncFoundry(
        "http://foundry", key, settings=settings, transport=transport
    ) as foundry:
        rounds = (await foundry.jobs.rounds(job_id)).data
        assert [(row.round, row.loss, row.members[0].loss) for row in rounds] == [
            (1, 2.5, 2.5),
            (2, None, None),
        ]
        members = (await foundry.jobs.members(job_id, after=1, limit=1)).data
        assert [(row.seq, row.kind, row.member) for row in members] == [(2, "joined", "w0")]
        config = DilocoConfig.model_validate(CONFIG).model_copy(
            update={"fleet": FleetConfig(workers=5)}
        )
        job = await foundry.jobs.submit_diloco("bot", "smol", "support@1", config)
        assert (job.kind, job.state) == ("diloco", "QUEUED")
        imported = await foundry.models.import_("smollm2", "bundled:smollm2-135m")
        assert (await foundry.jobs.rounds(imported.id)).data == []
