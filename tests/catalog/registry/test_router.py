"""Routes of the registry, through the control application."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

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


async def test_a_list_tells_latest_versions_aliases_and_counts(
    control: Control, tmp_path: Path
) -> None:
    base, _ = await with_models(control, tmp_path)
    body = {"version": "0.1.0", "expected_version_id": None}
    await control.client.put("/models/smol/aliases/staging", json=body)
    smol, bot = (await control.client.get("/models")).json()["data"]
    assert (smol["latest_version"], smol["version_count"], bot["version_count"]) == ("0.1.0", 1, 1)
    assert [(a["name"], a["version_id"]) for a in smol["aliases"]] == [("staging", str(base.id))]
    assert (await control.client.get("/models/smol")).json() == smol


async def test_an_empty_model_is_deleted_and_audited(control: Control, tmp_path: Path) -> None:
    await with_models(control, tmp_path)
    kept = await control.client.delete("/models/support-bot")
    assert (kept.status_code, kept.json()["error"]["code"]) == (409, "conflict")
    await control.client.delete("/models/support-bot/versions/0.1.0")
    _, viewer = await new_key(control.database, control.principal, Role.VIEWER)
    refused = await control.client.delete(
        "/models/support-bot", headers={"authorization": f"Bearer {viewer}"}
    )
    assert refused.status_code == 403
    gone = await control.client.delete("/models/support-bot?reason=done")
    assert (gone.status_code, gone.content) == (204, b"")
    assert (await control.client.get("/models/support-bot")).status_code == 404
    assert (await control.client.delete("/models/support-bot")).status_code == 404
    events = (await control.client.get("/audit")).json()["data"]
    assert [e["reason"] for e in events if e["action"] == "model.delete"] == ["done"]
    all_gone = await control.client.delete("/models/smol?all_versions=true")
    assert all_gone.status_code == 204
    assert (await control.client.get("/models")).json()["data"] == []


async def test_lineage_names_the_data_and_the_job(control: Control, tmp_path: Path) -> None:
    base, _ = await with_models(control, tmp_path)
    added = await control.client.post("/datasets/support/versions?filename=t.jsonl", content=ROWS)
    data, job = added.json()["id"], uuid4()
    spec = VersionSpec(
        "bot", "adapter", "sft", base_version_id=base.id, dataset_version_id=data, job_id=job
    )
    await register(control, spec, adapter_dir(tmp_path / "new", seed=5))
    lineage = (await control.client.get("/models/bot/versions/0.1.0/lineage")).json()
    assert lineage["datasets"] == [{"id": data, "reference": "support@1"}]
    trained = {v["reference"]: (v["dataset_version_id"], v["job_id"]) for v in lineage["versions"]}
    assert trained == {"bot@0.1.0": (data, str(job)), "smol@0.1.0": (None, None)}
