"""The client against the control application on a real PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from foundry.config import Settings
from foundry.errors import (
    AliasMoved,
    Conflict,
    InvalidDataset,
    ModelNotFound,
    NotFound,
    Unauthenticated,
)
from foundry.infra.database import Database
from foundry.sdk import AsyncFoundry, Lora, SftConfig
from tests.control.client import ROWS, Control, running_control, with_models
from tests.serving.recommendations.questions import (
    CLUSTER,
    ENDPOINT_CONFIG,
    LLAMA,
    WORKLOAD,
    FakeSearcher,
    answer,
)

pytestmark = pytest.mark.postgres


@pytest.fixture
async def control(database: Database, tmp_path: Path) -> AsyncIterator[Control]:
    searcher = FakeSearcher()
    async with running_control(database, tmp_path / "objects", searcher=searcher) as running:
        yield running


def _client(control: Control, key: str, home: Path) -> AsyncFoundry:
    transport = httpx.ASGITransport(control.app, root_path="/api", raise_app_exceptions=False)
    return AsyncFoundry("http://foundry", key, settings=Settings(home=home), transport=transport)


@pytest.fixture
async def foundry(control: Control, tmp_path: Path) -> AsyncIterator[AsyncFoundry]:
    key = control.client.headers["authorization"].removeprefix("Bearer ")
    async with _client(control, key, tmp_path) as client:
        yield client


async def test_the_server_introduces_itself(foundry: AsyncFoundry) -> None:
    assert (await foundry.health()).status == "ok"
    assert (await foundry.whoami()).role == "admin"
    assert (await foundry.capabilities()).data["parquet"].available


async def test_a_dataset_is_added_once_and_read_back(foundry: AsyncFoundry, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(ROWS)
    added = await foundry.datasets.add("support", file, eval_fraction=0.2, seed=3)
    again = await foundry.datasets.add(
        "support", ROWS, filename="x.jsonl", eval_fraction=0.2, seed=3
    )
    assert added.reference == "support@1"
    assert again.digest == added.digest and again.number == 1
    assert added.train_rows + added.eval_rows == 40
    assert (await foundry.datasets.get("support")).id == added.id
    rows = (await foundry.datasets.rows("support", 1, split="eval", limit=2)).data
    assert [set(row) for row in rows] == [{"prompt", "completion"}] * 2
    assert [d.name for d in (await foundry.datasets.list()).data] == ["support"]
    assert [v.number for v in (await foundry.datasets.versions("support")).data] == [1]


async def test_a_bad_row_is_named(foundry: AsyncFoundry) -> None:
    rows = ROWS.splitlines(keepends=True)[0] + b'{"prompt": 1, "completion": "b"}\n'
    with pytest.raises(InvalidDataset, match="row 2: prompt"):
        await foundry.datasets.add("bad", rows, filename="x.jsonl")


async def test_aliases_move_only_from_where_they_were_seen(
    control: Control, foundry: AsyncFoundry, tmp_path: Path
) -> None:
    base, bot = await with_models(control, tmp_path)
    models = foundry.models
    assert {m.name async for m in models.list(limit=1)} == {
        "smol",
        "support-bot",
    }
    version = await models.version("support-bot", "latest")
    assert version.id == bot.id
    alias = await models.set_alias(
        "support-bot", "production", version.version, expected_version_id=None
    )
    assert alias.version_id == bot.id
    with pytest.raises(AliasMoved):
        await models.set_alias(
            "support-bot", "production", version.version, expected_version_id=base.id
        )
    assert [a.name for a in (await models.get("support-bot")).aliases] == ["production"]
    lineage = await models.lineage("support-bot", "production")
    assert {v.reference for v in lineage.versions} == {base.reference, bot.reference}
    metrics = await models.metrics("support-bot", "latest")
    assert {m.name: m.value for m in metrics.data} == {"eval_loss": 0.25}
    compared = await models.compare("support-bot", [version.version])
    assert compared.data[0].metrics == {"eval_loss": 0.25}
    assert "adapter_config.json" in {
        f.path for f in (await models.artifacts("support-bot", "latest")).data
    }
    with pytest.raises(Conflict):
        await models.delete_version("support-bot", version.version)
    await models.delete_alias("support-bot", "production", expected_version_id=bot.id)
    hidden = await models.set_stage("support-bot", version.version, deprecated=True)
    assert hidden.stage != version.stage
    await models.delete_version("support-bot", version.version, reason="test")
    # The row stays for lineage; nothing can use it.
    assert (await models.version("support-bot", version.version)).stage == "tombstoned"
    with pytest.raises(ModelNotFound):
        await models.version("support-bot", "latest")


async def test_a_job_is_submitted_cancelled_and_resumed(
    control: Control, foundry: AsyncFoundry, tmp_path: Path
) -> None:
    await with_models(control, tmp_path)
    await foundry.datasets.add("support", ROWS, filename="rows.jsonl")
    config = SftConfig(method=Lora(rank=8), epochs=1, max_seq_len=128)
    job = await foundry.jobs.submit_sft("bot", "smol", "support@1", config)
    assert (await foundry.jobs.submit_sft("bot", "smol", "support@1", config)).id == job.id
    assert job.state == "QUEUED"
    assert (await foundry.jobs.metrics(job.id)).data == []
    assert (await foundry.jobs.logs(job.id)).data == []
    await foundry.jobs.cancel(job.id)
    assert (await foundry.jobs.wait(job.id, timeout_s=5)).state == "CANCELLED"
    assert (await foundry.jobs.resume(job.id)).state == "QUEUED"
    assert [j.id for j in (await foundry.jobs.list(state="QUEUED")).data] == [job.id]
    imported = await foundry.models.import_("smollm2", "bundled:smollm2-135m")
    assert (imported.kind, imported.state) == ("import", "QUEUED")


async def test_an_endpoint_lives_and_goes(
    control: Control, foundry: AsyncFoundry, tmp_path: Path
) -> None:
    base, _ = await with_models(control, tmp_path)
    endpoint = await foundry.endpoints.create("support-bot")
    assert (endpoint.model, endpoint.state) == (base.reference, "CREATED")
    assert (await foundry.endpoints.wait(endpoint.id)).state == "CREATED"
    assert (await foundry.endpoints.deploy(endpoint.id)).desired == "running"
    assert (await foundry.endpoints.stop(endpoint.id)).desired == "stopped"
    (revision,) = (await foundry.endpoints.revisions(endpoint.id)).data
    assert revision.deadline_at is None
    assert (await foundry.endpoints.stop(endpoint.id, now=True)).state == "STOPPING"
    (revision,) = (await foundry.endpoints.revisions(endpoint.id)).data
    assert revision.deadline_at is not None
    assert [e.id for e in (await foundry.endpoints.list()).data] == [endpoint.id]
    assert (await foundry.endpoints.delete(endpoint.id, now=True)).desired == "deleted"
    with pytest.raises(NotFound):
        await foundry.endpoints.get("0198f3c2-0000-7000-8000-000000000009")


async def test_a_revoked_key_is_refused_and_all_is_audited(
    control: Control, foundry: AsyncFoundry, tmp_path: Path
) -> None:
    created = await foundry.keys.create("ci", role="viewer", expires_in_days=1)
    async with _client(control, created.key, tmp_path) as other:
        assert (await other.whoami()).role == "viewer"
        revoked = await foundry.keys.revoke(created.id)
        assert revoked.revoked_at is not None
        with pytest.raises(Unauthenticated):
            await other.whoami()
    assert created.id in {key.id for key in (await foundry.keys.list()).data}
    events = (await foundry.audit.list(resource_id=created.id)).data
    assert [event.resource_id for event in events] == [created.id] * 2


async def test_a_recommendation_becomes_an_endpoints_configuration(
    control: Control, foundry: AsyncFoundry, tmp_path: Path
) -> None:
    await with_models(control, tmp_path)
    direct = await foundry.budsim.recommend(LLAMA, WORKLOAD, cluster=CLUSTER, targets={})
    assert (direct.state, direct.result) == ("DONE", answer())
    assert [row.id for row in (await foundry.budsim.recommendations()).data] == [direct.id]
    assert len((await foundry.budsim.pareto(direct.id)).data) == 2
    endpoint = await foundry.endpoints.create("smol")
    asked = {"performance_targets": {"max_ttft_ms": 300}, "workload": WORKLOAD, "cluster": CLUSTER}
    configured = await foundry.endpoints.configure(endpoint.id, asked)
    assert configured.recommendation_id is not None
    found = await foundry.budsim.wait(configured.recommendation_id, timeout_s=10)
    assert found.request["targets"]["max_ttft_ms"] == 300  # type: ignore[index]
    with pytest.raises(Conflict, match="look at it first"):
        await foundry.endpoints.deploy(endpoint.id, recommendation_id=direct.id)
    deployed = await foundry.endpoints.deploy(endpoint.id, recommendation_id=found.id)
    assert deployed.config == ENDPOINT_CONFIG
    manual = await foundry.endpoints.configure(endpoint.id, {"replicas": 4})
    assert (manual.next_config, manual.recommendation_id) == ({"replicas": 4}, None)


async def test_prices_change_for_everybody_of_the_tenant(foundry: AsyncFoundry) -> None:
    row = await foundry.budsim.set_prices({"nvidia-l4-24gb": 0.5}, expected_version=0)
    assert (row.version, row.prices) == (1, {"nvidia-l4-24gb": 0.5})
    found = await foundry.budsim.catalogue()
    prices = {gpu["id"]: gpu["price_per_hour"] for gpu in found.data}
    assert (prices["nvidia-l4-24gb"], found.price_version) == (0.5, 1)
