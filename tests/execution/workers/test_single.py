"""A fine-tuning job from its row to its version, and what a dead worker leaves behind."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from foundry.catalog.datasets.content import DatasetContent
from foundry.catalog.datasets.domain import AddOptions
from foundry.catalog.datasets.service import Datasets
from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.registrar import Registrar
from foundry.catalog.registry.service import Registry
from foundry.config import ServingSettings, Settings
from foundry.engines.training.config import SftConfig
from foundry.execution.jobs.checkpoints import CheckpointLog
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.queue import load, requeue_or_fail_stalled
from foundry.execution.jobs.service import Job, Jobs
from foundry.execution.jobs.submission import Submissions
from foundry.execution.workers.attempt import Attempt
from foundry.execution.workers.naming import ACTOR_NAMESPACE, actor_name
from foundry.execution.workers.run import run_attempt
from foundry.governance.audit.service import AuditTrail
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.serving.endpoints.serving_rank import ServingRanks
from tests.engines.training.conftest import chat_rows as chat_rows
from tests.engines.training.conftest import tiny_model as tiny_model
from tests.execution.jobs.test_leases import CALLER, cancel, logs, start

pytestmark = [pytest.mark.postgres, pytest.mark.ray]
CONFIG = SftConfig(
    max_steps=400,
    batch_size=2,
    micro_batch_size=2,
    max_seq_len=256,
    checkpoint_every=2,
    log_every=1,
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


async def claimed(database: Database, job: Job) -> tuple[JobLease, Job]:
    opened = await start(database, job.id)
    assert opened is not None
    return await JobLease.claim(database, job.id, opened.submission_id)


async def told(database: Database, job: Job) -> str:
    return "".join(chunk.text for chunk in await logs(database, job.id))


async def test_a_worker_that_dies_ends_an_attempt_and_a_cancel_the_job(
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
    registrar = Registrar(database, objects, CALLER, "test")
    await registrar.register(VersionSpec("tiny", "base", "import"), tiny_model)
    content = DatasetContent(database, objects, CALLER, "test")
    await content.add("words", source, AddOptions("rows.jsonl", eval_fraction=0.2))
    async with database.begin() as db:
        audit = AuditTrail(db, CALLER, "test")
        registry, datasets = Registry(db, audit, CALLER), Datasets(db, CALLER)
        ranks = ServingRanks(db, CALLER, ServingSettings().max_lora_rank)
        submissions = Submissions(Jobs(db, audit, CALLER), registry, datasets, ranks)
        queued, _ = await submissions.sft("bot", "tiny", "words", CONFIG)
    checkpoints = CheckpointLog(database, queued.id)

    lease, job = await claimed(database, queued)
    seeing = asyncio.ensure_future(run_attempt(Attempt(settings, database, lease, job)))
    while not (await checkpoints.list_newest_first() and "/400: loss" in await told(database, job)):
        assert not seeing.done()
        await asyncio.sleep(0.1)
    assert job.submission_id is not None
    name = actor_name(job.submission_id, "worker")
    ray.kill(ray.get_actor(name, namespace=ACTOR_NAMESPACE))
    assert await asyncio.wait_for(seeing, 60) is False
    stalled = await load(database, job.id)
    assert stalled is not None and stalled.error is not None
    assert (stalled.state, stalled.failures) == ("STALLED", 1)
    assert stalled.error["code"] == "engine_failed"
    assert "the worker died" in str(stalled.error["message"])
    assert "fetching the base model and the dataset" in await told(database, job)

    await requeue_or_fail_stalled(database, stalled, {})
    lease, job = await claimed(database, queued)
    seeing = asyncio.ensure_future(run_attempt(Attempt(settings, database, lease, job)))
    while (found := await load(database, job.id)) and found.phase != "train":
        assert not seeing.done()
        await asyncio.sleep(0.1)
    await cancel(database, job.id)
    assert await asyncio.wait_for(seeing, 60) is True
    ended = await load(database, job.id)
    assert ended is not None and (ended.state, ended.attempt) == ("CANCELLED", 2)
    newest = (await checkpoints.list_newest_first())[0]
    assert f"/{lease.fence}-" in newest.object_key, "what was trained is kept"
