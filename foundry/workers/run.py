"""The driver of one job: `python -m foundry.workers.run --job ID`, an entry point of Ray jobs.

It holds the lease and no accelerator; its worker actor does the work. A driver that dies is
noticed by its silence and another attempt goes on from the last checkpoint.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import ray
from ray.exceptions import RayActorError

from foundry.config import Settings, load_settings
from foundry.datasets.service import load_dataset
from foundry.errors import (
    DatabaseUnavailable,
    EngineFailed,
    FoundryError,
    LeaseLost,
    ResourceExhausted,
)
from foundry.infra.database import Database
from foundry.infra.wiring import open_database
from foundry.jobs.service import Job, JobLease
from foundry.registry.domain import VersionSpec
from foundry.registry.service import load_manifest
from foundry.training.config import Lora, SftConfig
from foundry.workers.imports import ImportWorker
from foundry.workers.messages import Inputs, Progress, Publication, Published, SftTask
from foundry.workers.sft import SftWorker

log = logging.getLogger(__name__)

POLL_S = 1.0
_LOST = 3


class Driver:
    """One attempt of one job, from claim to its final state."""

    def __init__(self, settings: Settings, database: Database, lease: JobLease, job: Job) -> None:
        self._settings = settings
        self._database = database
        self._lease = lease
        self._job = job
        self._told = 0

    async def run(self) -> bool:
        """Whether the job succeeded or was cancelled; its row says how it ended.

        Raises:
            LeaseLost: another attempt has taken over.
        """
        kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "sft": self._sft,
            "import": self._import,
        }
        try:
            await kinds[self._job.kind]()
        except LeaseLost:
            raise
        except RayActorError as error:
            # Left without an end: the lease runs out and the next attempt resumes.
            await self._lease.log(f"the worker died: {error}\n")
            return False
        except FoundryError as error:
            await self._lease.fail(error.code, error.message)
            return False
        return True

    async def _sft(self) -> None:
        spec = self._job.spec
        base_id, dataset_id = (
            UUID(str(spec["base_version_id"])),
            UUID(str(spec["dataset_version_id"])),
        )
        base = await load_manifest(self._database, base_id)
        dataset = await load_dataset(self._database, dataset_id)
        config = SftConfig.model_validate(spec["config"])
        task = SftTask(
            self._job.id,
            Inputs(base.digest, base.files),
            Inputs(dataset.digest, dataset.files),
            config,
        )
        worker = await self._place(SftWorker)
        if worker is None:
            return
        if (result := await self._follow(worker, worker.run.remote(task))) is None:
            await self._lease.cancelled()
            return
        lora = isinstance(config.method, Lora)
        published: Published = await worker.publish.remote(
            self._publication(
                VersionSpec(
                    model=str(spec["model"]),
                    kind="adapter" if lora else "merged",
                    relation="sft",
                    parent_version_id=base_id,
                    base_version_id=base_id if lora else None,
                    job_id=self._job.id,
                    dataset_version_id=dataset_id,
                    config_digest=config.digest(),
                    metrics=result.metrics,
                )
            )
        )
        await self._finish(published, result.metrics)

    async def _import(self) -> None:
        spec = self._job.spec
        publication = self._publication(
            VersionSpec(
                model=str(spec["model"]), kind="base", relation="import", job_id=self._job.id
            )
        )
        worker = await self._place(ImportWorker)
        if worker is None:
            return
        published = await self._follow(
            worker, worker.run.remote(str(spec["source"]), publication), silent=True
        )
        if published is None:
            await self._lease.cancelled()
            return
        await self._finish(published, {})

    async def _place(self, worker: type) -> Any | None:
        """A worker once the cluster has room for it; None: the job was cancelled meanwhile.

        Raises:
            ResourceExhausted: the cluster has nothing that it could ever run on.
        """
        kind = _accelerator(worker)
        options = {"num_cpus": 1, "num_gpus": 1 if kind == "GPU" else 0}
        remote: Any = ray.remote(max_restarts=0, **options)(worker)
        actor = remote.remote(self._settings)
        ready = asyncio.ensure_future(_result(actor.__ray_ready__.remote()))
        while not (await asyncio.wait({ready}, timeout=POLL_S))[0]:
            if await self._cancelled_while(f"waiting for a free {kind}"):
                ready.cancel()
                ray.kill(actor)
                await self._lease.cancelled()
                return None
        ready.result()
        return actor

    async def _cancelled_while(self, phase: str) -> bool:
        """Show the phase. Returns whether the job shall be cancelled."""
        try:
            return await self._lease.heartbeat({"phase": phase})
        except DatabaseUnavailable:
            return False

    def _publication(self, spec: VersionSpec) -> Publication:
        return Publication(self._job.tenant_id, self._job.project_id, self._job.id, spec)

    async def _finish(self, published: Published, metrics: dict[str, float]) -> None:
        await self._lease.finish(
            {
                "version_id": str(published.version_id),
                "model": published.reference,
                "digest": published.digest,
                "metrics": metrics,
            }
        )

    async def _follow(self, worker: Any, call: Any, *, silent: bool = False) -> Any | None:
        """Renew the lease and pass the worker's reports on until it is done. None: cancelled."""
        outcome = asyncio.ensure_future(_result(call))
        stopping = False
        while True:
            done, _ = await asyncio.wait({outcome}, timeout=POLL_S)
            try:
                cancel = await self._report(worker, silent=silent)
            except DatabaseUnavailable:
                # Training goes on; the reports stay with the worker until they can be written.
                log.warning("PostgreSQL cannot be reached; reporting later")
                if not done:
                    continue
                await asyncio.sleep(POLL_S)
                continue
            if done:
                result = outcome.result()
                return None if getattr(result, "stopped", False) else result
            if cancel and not stopping:
                stopping = True
                if silent:
                    outcome.cancel()
                    ray.kill(worker)
                    return None
                await worker.stop.remote()

    async def _report(self, worker: Any, *, silent: bool) -> bool:
        if silent:
            return await self._lease.heartbeat({"phase": "reading the files"})
        reports: list[Progress] = await worker.progress.remote(self._told)
        for report in reports:
            if report.metrics:
                await self._lease.metrics(report.step, report.metrics)
            else:
                await self._lease.log(report.phase + "\n")
            self._told += 1
        return await self._lease.heartbeat(_shown(reports[-1]) if reports else None)


async def _result(call: Any) -> Any:
    return await call


def _shown(report: Progress) -> dict[str, object]:
    return {
        "phase": report.phase,
        "step": report.step,
        "total_steps": report.total_steps,
        **(report.metrics or {}),
    }


def _accelerator(worker: type) -> str:
    """What of the cluster the worker needs one whole of.

    Raises:
        ResourceExhausted: the cluster has no node with it.
    """
    resources = ray.cluster_resources()
    if worker is SftWorker and resources.get("GPU", 0) >= 1:
        return "GPU"
    if resources.get("CPU", 0) >= 1:
        return "CPU"
    raise ResourceExhausted("the cluster has no whole CPU for a worker: add a node")


async def execute(job_id: UUID, settings: Settings) -> bool:
    """Claim a job and see it through.

    Raises:
        NotFound, LeaseLost: there is nothing to do.
    """
    async with open_database(settings) as database:
        lease, job = await JobLease.claim(database, job_id)
        return await Driver(settings, database, lease, job).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=UUID, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    settings = load_settings()
    ray.init(address="auto", log_to_driver=True, logging_level=logging.WARNING)
    try:
        succeeded = asyncio.run(execute(arguments.job, settings))
    except LeaseLost as error:
        log.warning("%s", error.message)
        sys.exit(_LOST)
    except EngineFailed as error:
        sys.exit(error.message)
    sys.exit(0 if succeeded else 1)


if __name__ == "__main__":
    main()
