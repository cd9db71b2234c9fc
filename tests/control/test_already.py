"""What is refused at the call, and what an answer says was so already, over REST."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from foundry.infra.database import Database
from tests.control.client import ROWS, Control, running_control, with_models

pytestmark = pytest.mark.postgres

BODY: dict[str, Any] = {
    "name": "bot",
    "base": "smol",
    "dataset": "support",
    "config": {"max_seq_len": 64, "max_steps": 2},
}


@pytest.fixture
async def control(database: Database, tmp_path: Path) -> AsyncIterator[Control]:
    async with running_control(database, tmp_path / "objects") as running:
        await with_models(running, tmp_path)
        await running.client.post("/datasets/support/versions?filename=t.jsonl", content=ROWS)
        yield running


async def post(control: Control, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    answer = await control.client.post(path, json=body)
    document: dict[str, Any] = answer.json()
    return answer.status_code, document.get("error") or document


def with_config(**fields: object) -> dict[str, Any]:
    return BODY | {"config": BODY["config"] | fields}


async def succeed(control: Control, job_id: str, version: str) -> None:
    result = json.dumps({"model": version, "version_id": await version_id(control)})
    async with control.database.begin() as db:
        await db.execute(
            text("UPDATE jobs SET state = 'SUCCEEDED', result = :result WHERE id = :id"),
            {"id": job_id, "result": result},
        )


async def version_id(control: Control) -> str:
    found = (await control.client.get("/models/support-bot/versions/0.1.0")).json()
    return str(found["id"])


async def test_a_rank_that_is_not_served_is_refused_until_it_is(control: Control) -> None:
    wanted = with_config(method={"kind": "lora", "rank": 256})
    status, error = await post(control, "/jobs/sft", wanted)
    assert (status, error["param"]) == (400, "config.method.rank")
    assert "`foundry endpoints create smol@0.1.0 --max-lora-rank 256`" in error["message"]
    made = {"model": "smol", "config": {"max_lora_rank": 256}}
    assert (await post(control, "/endpoints", made))[0] == 201
    assert (await post(control, "/jobs/sft", wanted))[0] == 201


async def test_a_field_that_would_be_ignored_is_a_conflict(control: Control) -> None:
    status, error = await post(control, "/jobs/sft", with_config(epochs=3))
    assert (status, error["code"], error["param"]) == (409, "conflict", "config.epochs")
    fleet = {"fleet": {"workers": 2, "grace_s": 1}, "inner": {"max_seq_len": 64}}
    status, error = await post(control, "/jobs/diloco", BODY | {"config": fleet})
    assert (status, error["param"]) == (409, "config.fleet.grace_s")


async def test_a_small_batch_is_held_in_memory_whole(control: Control) -> None:
    status, job = await post(control, "/jobs/sft", with_config(batch_size=3))
    assert (status, job["spec"]["config"]["micro_batch_size"]) == (201, 3)


async def test_the_same_training_says_what_became_of_it(control: Control) -> None:
    _, job = await post(control, "/jobs/sft", BODY)
    assert job["note"] is None
    status, same = await post(control, "/jobs/sft", BODY)
    assert (status, same["note"]) == (
        200,
        f"the same job is QUEUED already: {job['id']}; --force trains beside it",
    )
    await succeed(control, job["id"], "support-bot@0.1.0")
    status, same = await post(control, "/jobs/sft", BODY)
    assert (status, same["note"]) == (
        200,
        f"already trained as support-bot@0.1.0 by job {job['id']}; --force trains again",
    )
    assert (await post(control, "/jobs/sft", BODY | {"force": True}))[1]["note"] is None


async def test_the_newest_dataset_is_written_with_and_without_latest(control: Control) -> None:
    status, job = await post(control, "/jobs/sft", BODY | {"dataset": "support@latest"})
    assert (status, job["spec"]["dataset"]) == (201, "support@1")
    for dataset in ("support", "support@1"):
        status, same = await post(control, "/jobs/sft", BODY | {"dataset": dataset})
        assert (status, same["id"]) == (200, job["id"])


async def test_a_result_that_was_deleted_is_made_again(control: Control) -> None:
    _, job = await post(control, "/jobs/sft", BODY)
    await succeed(control, job["id"], "support-bot@0.1.0")
    assert (await control.client.delete("/models/support-bot/versions/0.1.0")).status_code == 204
    status, again = await post(control, "/jobs/sft", BODY)
    assert (status, again["note"]) == (201, None)
    assert again["id"] != job["id"]


async def test_a_job_that_was_there_before_is_found_however_the_cluster_changed(
    control: Control,
) -> None:
    made = {"model": "smol", "config": {"max_lora_rank": 256}}
    _, endpoint = await post(control, "/endpoints", made)
    wanted = with_config(method={"kind": "lora", "rank": 256})
    _, job = await post(control, "/jobs/sft", wanted)
    assert (await control.client.delete(f"/endpoints/{endpoint['id']}")).status_code == 202
    assert (await post(control, "/jobs/sft", wanted)) == (200, job | {"note": same_note(job)})


def same_note(job: dict[str, Any]) -> str:
    return f"the same job is QUEUED already: {job['id']}; --force trains beside it"


async def test_an_ended_job_is_not_cancelled(control: Control) -> None:
    _, job = await post(control, "/jobs/sft", BODY)
    status, cancelled = await post(control, f"/jobs/{job['id']}/cancel")
    assert (status, cancelled["state"], cancelled["note"]) == (200, "CANCELLED", None)
    status, error = await post(control, f"/jobs/{job['id']}/cancel")
    assert (status, error["code"]) == (409, "conflict")
    assert error["message"] == (
        f"job {job['id']} has ended already, it is CANCELLED: there is nothing to cancel"
    )


async def test_a_job_that_succeeded_or_waits_is_not_resumed(control: Control) -> None:
    _, job = await post(control, "/jobs/sft", BODY)
    resume = f"/jobs/{job['id']}/resume"
    status, error = await post(control, resume)
    assert (status, error["message"]) == (
        409,
        f"job {job['id']} is QUEUED: only a failed or cancelled one resumes",
    )
    await succeed(control, job["id"], "support-bot@0.1.0")
    status, error = await post(control, resume)
    assert status == 409
    assert "has succeeded and made support-bot@0.1.0" in error["message"]


async def test_an_unknown_state_is_named_with_the_known_ones(control: Control) -> None:
    answer = await control.client.get("/jobs?state=DONE")
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert message.startswith("state: DONE is none; there are QUEUED, ADMITTED, STARTING, RUNNING")


async def test_an_endpoint_that_runs_keeps_its_options(control: Control) -> None:
    status, endpoint = await post(control, "/endpoints", {"model": "smol", "deploy": True})
    assert (status, endpoint["note"]) == (201, None)
    status, same = await post(control, "/endpoints", {"model": "support-bot", "deploy": True})
    assert (status, same["note"]) == (200, "the endpoint smol is PENDING already")
    wanted = {"model": "smol", "config": {"max_model_len": 64}, "deploy": True}
    status, error = await post(control, "/endpoints", wanted)
    assert (status, error["code"], error["param"]) == (409, "conflict", "config.max_model_len")
    assert error["message"] == (
        "the endpoint smol exists already, with max_model_len unset instead of 64: "
        "`echo '{\"max_model_len\": 64}' | foundry endpoints configure smol -` and "
        "`foundry deploy smol@0.1.0` change that"
    )
    status, again = await post(control, f"/endpoints/{endpoint['id']}/deploy")
    assert (status, again["note"]) == (200, "the endpoint smol is PENDING already")
