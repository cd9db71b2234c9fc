"""A DiLoCo job from its row to its version: database, registry, cluster."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import ray

from foundry.catalog.datasets.content import DatasetContent
from foundry.catalog.datasets.domain import AddOptions
from foundry.catalog.datasets.service import Datasets
from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.registrar import Registrar
from foundry.catalog.registry.service import Registry, load_manifest
from foundry.config import ServingSettings, Settings
from foundry.engines.training.diloco.config import DilocoConfig
from foundry.execution.fleets.service import FleetLog
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.queue import load
from foundry.execution.jobs.service import Jobs
from foundry.execution.jobs.submission import Submissions
from foundry.execution.workers.attempt import Attempt
from foundry.execution.workers.run import run_attempt
from foundry.governance.audit.service import AuditTrail
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.serving.endpoints.serving_rank import ServingRanks
from tests.engines.training.conftest import chat_rows as chat_rows
from tests.engines.training.conftest import tiny_model as tiny_model
from tests.governance.identity.principals import principal

pytestmark = [pytest.mark.postgres, pytest.mark.ray]
CALLER = principal()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


async def test_a_job_ends_with_a_version_that_tells_its_history(
    cluster: None,
    database: Database,
    database_url: str,
    tiny_model: Path,
    chat_rows: list[dict[str, object]],
    tmp_path: Path,
) -> None:
    settings = Settings.model_validate({"home": tmp_path, "database": {"url": database_url}})
    objects = DirectoryStore(tmp_path / "objects")
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in chat_rows))
    config = DilocoConfig.model_validate(
        {
            "inner": {"max_steps": 6, "batch_size": 2, "micro_batch_size": 2, "max_seq_len": 256},
            "outer": {"inner_steps": 3},
        }
    )
    registrar = Registrar(database, objects, CALLER, "test")
    await registrar.register(VersionSpec("tiny", "base", "import"), tiny_model)
    content = DatasetContent(database, objects, CALLER, "test")
    await content.add("words", source, AddOptions("rows.jsonl", eval_fraction=0.2))
    async with database.begin() as db:
        audit = AuditTrail(db, CALLER, "test")
        registry, datasets = Registry(db, audit, CALLER), Datasets(db, CALLER)
        ranks = ServingRanks(db, CALLER, ServingSettings().max_lora_rank)
        submissions = Submissions(Jobs(db, audit, CALLER), registry, datasets, ranks)
        queued, _ = await submissions.diloco("tiny-fleet", "tiny", "words", config)
    lease, job = await JobLease.claim(database, queued.id)
    assert await run_attempt(Attempt(settings, database, lease, job))
    ended = await load(database, job.id)
    assert ended is not None and ended.state == "SUCCEEDED", ended and ended.error
    assert ended.result is not None
    log = FleetLog(database, job.id, lease.fence)
    newest = await log.newest()
    assert newest is not None and newest.round == 2
    assert [share.batches for share in newest.members] == [3, 3]
    assert await log.checkpoints() == [], "nothing resumes a job that has succeeded"
    assert not list((tmp_path / "objects").glob("fleets/*/*"))
    manifest = await load_manifest(database, UUID(str(ended.result["version_id"])))
    history = next(file for file in manifest.files if file.path == "diloco.json")
    document = json.loads(await objects.get_bytes(history.object_key))
    assert (document["rounds"], document["batches"]) == (2, 12)
    assert [event["kind"] for event in document["members"]] == ["joined", "joined"]
