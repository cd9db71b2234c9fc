"""Routes of datasets: what is deleted, what refuses it, and what a list shows."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from foundry.catalog.registry.domain import VersionSpec
from foundry.governance.identity.domain import Role
from foundry.infra.database import Database
from tests.catalog.registry.files import adapter_dir
from tests.control.client import ROWS, Control, new_key, register, running_control, with_models

pytestmark = pytest.mark.postgres


@pytest.fixture
async def control(database: Database, tmp_path: Path) -> AsyncIterator[Control]:
    async with running_control(database, tmp_path / "objects") as running:
        yield running


async def add(control: Control, name: str, content: bytes = ROWS, **query: object) -> Any:
    options = {"filename": "t.jsonl", **query}
    answer = await control.client.post(
        f"/datasets/{name}/versions",
        params={k: str(v) for k, v in options.items()},
        content=content,
    )
    assert answer.is_success, answer.text
    return answer.json()


async def test_two_rows_are_enough_and_none_may_be_held_out(control: Control) -> None:
    two = b"".join(ROWS.splitlines(keepends=True)[:2])
    body = await add(control, "two", two)
    assert (body["train_rows"], body["eval_rows"], body["created"]) == (1, 1, True)
    body = await add(control, "two", two, eval_fraction=0)
    assert (body["reference"], body["train_rows"], body["eval_rows"]) == ("two@2", 2, 0)
    assert (await add(control, "two", two, eval_fraction=0))["created"] is False
    rows = await control.client.get("/datasets/two/versions/2/rows?split=eval")
    assert rows.json() == {"data": []}


async def test_a_list_shows_the_newest_version_of_each(control: Control) -> None:
    for name in ("b", "a"):
        await add(control, name)
    await add(control, "a", ROWS + b'{"prompt": "one more", "completion": "x"}\n')
    first = (await control.client.get("/datasets?limit=1")).json()
    rest = (await control.client.get(f"/datasets?cursor={first['next_cursor']}")).json()
    assert [(d["name"], d["versions"], d["latest"]["reference"]) for d in first["data"]] == [
        ("a", 2, "a@2")
    ]
    assert [(d["name"], d["versions"], d["latest"]["number"]) for d in rest["data"]] == [
        ("b", 1, 1)
    ]
    latest = first["data"][0]["latest"]
    assert latest["train_rows"] + latest["eval_rows"] == 41
    assert latest["kind"] == "prompt_completion"


async def test_a_dataset_is_deleted_once(control: Control) -> None:
    added = await add(control, "support")
    path = "/datasets/support/versions/1"
    answer = await control.client.delete(f"{path}?reason=bad%20labels")
    assert (answer.status_code, answer.content) == (204, b"")
    again = await control.client.delete(path)
    assert again.status_code == 404
    assert "support@1 was deleted by admin" in again.json()["error"]["message"]
    record = (await control.client.get(path)).json()
    assert (record["id"], record["delete_reason"]) == (added["id"], "bad labels")
    assert record["deleted_at"] is not None
    assert (await control.client.get(f"{path}/rows")).status_code == 404
    assert (await control.client.get("/datasets/support/versions/latest")).status_code == 404
    assert (await control.client.get("/datasets")).json()["data"] == []
    await add(control, "support")
    assert (await control.client.delete("/datasets/support")).status_code == 204
    assert (await control.client.delete("/datasets/support")).status_code == 404
    for bad in ("latest", "0", "x", "99999999999"):
        answer = await control.client.delete(f"/datasets/support/versions/{bad}")
        assert answer.status_code == 400, bad


async def test_a_job_that_reads_it_refuses(control: Control, tmp_path: Path) -> None:
    await with_models(control, tmp_path)
    await add(control, "support")
    body = {"name": "bot", "base": "smol", "dataset": "support", "config": {"max_seq_len": 64}}
    job = (await control.client.post("/jobs/sft", json=body)).json()
    for path in ("/datasets/support/versions/1?force=true", "/datasets/support"):
        answer = await control.client.delete(path)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (409, "version_in_use")
        assert f"support@1 is read by job {job['id']} (bot, QUEUED)" in error["message"]
    await control.client.post(f"/jobs/{job['id']}/cancel")
    assert (await control.client.delete("/datasets/support/versions/1")).status_code == 204
    resumed = await control.client.post(f"/jobs/{job['id']}/resume")
    assert resumed.status_code == 404
    assert "support@1 was deleted" in resumed.json()["error"]["message"]
    assert (await control.client.post("/jobs/sft", json=body)).status_code == 404


async def test_a_model_that_was_trained_on_it_refuses_until_forced(
    control: Control, tmp_path: Path
) -> None:
    base, _ = await with_models(control, tmp_path)
    added = await add(control, "support")
    spec = VersionSpec(
        "bot",
        "adapter",
        "sft",
        base_version_id=base.id,
        parent_version_id=base.id,
        dataset_version_id=added["id"],
    )
    bot = await register(control, spec, adapter_dir(tmp_path / "bot"))
    answer = await control.client.delete("/datasets/support/versions/1")
    assert answer.status_code == 409
    assert f"{bot.reference} was trained on support@1" in answer.json()["error"]["message"]
    assert (await control.client.delete("/datasets/support?force=true")).status_code == 204
    record = (await control.client.get("/datasets/support/versions/1")).json()
    assert record["id"] == str(bot.dataset_version_id)


async def test_a_deleted_model_keeps_no_dataset(control: Control, tmp_path: Path) -> None:
    base, _ = await with_models(control, tmp_path)
    added = await add(control, "support")
    spec = VersionSpec(
        "bot", "adapter", "sft", base_version_id=base.id, dataset_version_id=added["id"]
    )
    await register(control, spec, adapter_dir(tmp_path / "bot"))
    assert (await control.client.delete("/models/bot/versions/0.1.0")).status_code == 204
    assert (await control.client.delete("/datasets/support/versions/1")).status_code == 204


async def test_evaluations_of_nothing_are_refused(control: Control, tmp_path: Path) -> None:
    await with_models(control, tmp_path)
    await add(control, "support", eval_fraction=0)
    config: dict[str, object] = {"max_seq_len": 64, "eval_every": 5}
    body = {"name": "bot", "base": "smol", "dataset": "support", "config": config}
    refused = await control.client.post("/jobs/sft", json=body)
    assert refused.status_code == 409
    assert "config.eval_every is set, but support@1 holds no rows out" in refused.text
    fleet = {**body, "config": {"inner": config}}
    assert (
        "config.inner.eval_every is set"
        in (await control.client.post("/jobs/diloco", json=fleet)).text
    )
    config.pop("eval_every")
    assert (await control.client.post("/jobs/sft", json=body)).status_code == 201


async def test_a_viewer_deletes_nothing(control: Control, database: Database) -> None:
    await add(control, "support")
    _, key = await new_key(database, control.principal, Role.VIEWER)
    headers = {"authorization": f"Bearer {key}"}
    for path in ("/datasets/support", "/datasets/support/versions/1"):
        answer = await control.client.delete(path, headers=headers)
        assert answer.status_code == 403
