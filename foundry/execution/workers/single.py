"""Jobs of one worker: fine-tuning and imports. The driver places it, follows it, has it publish."""

import asyncio
import logging
from typing import Any
from uuid import UUID

import ray

from foundry.catalog.datasets.service import load_dataset
from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.service import load_manifest
from foundry.engines.training.config import Lora, SftConfig
from foundry.errors import DatabaseUnavailable, ResourceExhausted
from foundry.execution.workers.attempt import POLL_S, Attempt
from foundry.execution.workers.imports import ImportWorker
from foundry.execution.workers.messages import Inputs, Progress, Published, SftTask
from foundry.execution.workers.sft import SftWorker

log = logging.getLogger(__name__)


async def fine_tune(attempt: Attempt) -> None:
    """Raises:
    ResourceExhausted: the cluster has nothing that the worker could ever run on.
    RayActorError: the worker died; the next attempt resumes.
    """
    spec = attempt.job.spec
    base_id, dataset_id = UUID(str(spec["base_version_id"])), UUID(str(spec["dataset_version_id"]))
    base = await load_manifest(attempt.database, base_id)
    dataset = await load_dataset(attempt.database, dataset_id)
    config = SftConfig.model_validate(spec["config"])
    task = SftTask(
        attempt.job.id,
        Inputs(base.digest, base.files),
        Inputs(dataset.digest, dataset.files),
        config,
    )
    worker = await _placed(attempt, SftWorker)
    if worker is None:
        return
    if (result := await _Following(attempt, worker).until_done(worker.run.remote(task))) is None:
        await attempt.lease.cancelled()
        return
    lora = isinstance(config.method, Lora)
    published: Published = await worker.publish.remote(
        attempt.publication(
            VersionSpec(
                model=str(spec["model"]),
                kind="adapter" if lora else "merged",
                relation="sft",
                parent_version_id=base_id,
                base_version_id=base_id if lora else None,
                job_id=attempt.job.id,
                dataset_version_id=dataset_id,
                config_digest=config.digest(),
                metrics=result.metrics,
            )
        )
    )
    await attempt.finish(published, result.metrics)


async def import_model(attempt: Attempt) -> None:
    """Raises the same as `fine_tune`."""
    spec = attempt.job.spec
    publication = attempt.publication(
        VersionSpec(model=str(spec["model"]), kind="base", relation="import", job_id=attempt.job.id)
    )
    worker = await _placed(attempt, ImportWorker)
    if worker is None:
        return
    call = worker.run.remote(str(spec["source"]), publication)
    published = await _Following(attempt, worker, silent=True).until_done(call)
    if published is None:
        await attempt.lease.cancelled()
        return
    await attempt.finish(published, {})


async def _placed(attempt: Attempt, worker: type) -> Any | None:
    """A worker once the cluster has room for it; None: the job was cancelled meanwhile.

    Raises:
        ResourceExhausted: the cluster has nothing that it could ever run on.
    """
    kind = _accelerator(worker)
    options = {"num_cpus": 1, "num_gpus": 1 if kind == "GPU" else 0}
    remote: Any = ray.remote(max_restarts=0, **options)(worker)
    actor = remote.remote(attempt.settings)
    ready = asyncio.ensure_future(_result(actor.__ray_ready__.remote()))
    while not (await asyncio.wait({ready}, timeout=POLL_S))[0]:
        if await attempt.show({"phase": f"waiting for a free {kind}"}):
            ready.cancel()
            ray.kill(actor)
            await attempt.lease.cancelled()
            return None
    ready.result()
    return actor


class _Following:
    """Renews the lease and passes a worker's reports on.

    Args:
        silent: the worker reports nothing and cannot stop by itself.
    """

    def __init__(self, attempt: Attempt, worker: Any, *, silent: bool = False) -> None:
        self._lease = attempt.lease
        self._worker = worker
        self._silent = silent
        self._told = 0

    async def until_done(self, call: Any) -> Any | None:
        """What `call` returns. None: cancelled."""
        outcome = asyncio.ensure_future(_result(call))
        stopping = False
        while True:
            done, _ = await asyncio.wait({outcome}, timeout=POLL_S)
            try:
                cancel = await self._report()
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
                if self._silent:
                    outcome.cancel()
                    ray.kill(self._worker)
                    return None
                await self._worker.stop.remote()

    async def _report(self) -> bool:
        if self._silent:
            return await self._lease.heartbeat({"phase": "reading the files"})
        reports: list[Progress] = await self._worker.progress.remote(self._told)
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
