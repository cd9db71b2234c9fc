"""Jobs of one worker: fine-tuning and imports. The driver places it, follows it, has it publish."""

import asyncio
import logging
from typing import Any
from uuid import UUID

import ray
from ray.exceptions import RayError

from foundry.catalog.datasets.service import load_dataset
from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.service import load_manifest
from foundry.engines.training.config import Lora, SftConfig
from foundry.errors import DatabaseUnavailable, ResourceExhausted
from foundry.execution.jobs.domain import Phase
from foundry.execution.jobs.placement import CpuShare, Needs, share_of_node
from foundry.execution.jobs.service import Job
from foundry.execution.workers.attempt import POLL_S, Attempt, write_until_accepted
from foundry.execution.workers.imports import Imported, ImportWorker
from foundry.execution.workers.messages import (
    Inputs,
    Progress,
    Published,
    Pulse,
    SftTask,
    describe_numbers,
)
from foundry.execution.workers.naming import ACTOR_NAMESPACE, actor_name
from foundry.execution.workers.nodes import list_nodes
from foundry.execution.workers.ray_threads import call_ray
from foundry.execution.workers.sft import SftWorker

log = logging.getLogger(__name__)


async def fine_tune(attempt: Attempt) -> None:
    """See a fine-tuning job through, from its row to a registered version.

    Raises:
        ResourceExhausted: the cluster has nothing that the worker could ever run on.
        RayActorError: the worker died; the next attempt resumes.
        LeaseLost: another attempt has taken over.
    """
    spec = attempt.job.spec
    base_id, dataset_id = UUID(str(spec["base_version_id"])), UUID(str(spec["dataset_version_id"]))
    base = await load_manifest(attempt.database, base_id)
    dataset = await load_dataset(attempt.database, dataset_id)
    config = SftConfig.model_validate(spec["config"])
    await attempt.say_if_unmeasured(dataset.eval_rows)
    placed = await _place_worker(attempt, SftWorker)
    if placed is None:
        return
    worker, threads = placed
    task = SftTask(
        attempt.job.id,
        attempt.lease.fence,
        Inputs(base.digest, base.files),
        Inputs(dataset.digest, dataset.files),
        config,
        threads,
        attempt.job.created_at,
    )
    following = _Following(attempt, worker)
    attempt.vitals.dump_stacks = following.dump_stacks
    if (result := await following.until_done(worker.run.remote(task))) is None:
        await write_until_accepted(attempt.lease.record_cancelled)
        return
    attempt.vitals.observe(Phase.PUBLISH, "result")
    await attempt.show({"phase": "publishing"})
    version = _trained_version(attempt.job, config, result.metrics)
    published: Published = await worker.publish.remote(attempt.publication(version))
    await attempt.finish(published, result.metrics)


def _trained_version(job: Job, config: SftConfig, metrics: dict[str, float]) -> VersionSpec:
    """What a fine-tuning registers, with its lineage."""
    lora, base_id = isinstance(config.method, Lora), UUID(str(job.spec["base_version_id"]))
    return VersionSpec(
        model=str(job.spec["model"]),
        kind="adapter" if lora else "merged",
        relation="sft",
        parent_version_id=base_id,
        base_version_id=base_id if lora else None,
        job_id=job.id,
        dataset_version_id=UUID(str(job.spec["dataset_version_id"])),
        config_digest=config.digest(),
        metrics=metrics,
    )


async def import_model(attempt: Attempt) -> None:
    """See an import through; raises the same as `fine_tune`."""
    placed = await _place_worker(attempt, ImportWorker)
    if placed is None:
        return
    worker, _ = placed
    following = _Following(attempt, worker)
    attempt.vitals.dump_stacks = following.dump_stacks
    publication = attempt.publication(_imported_version(attempt.job))
    call = worker.run.remote(str(attempt.job.spec["source"]), publication)
    imported: Imported | None = await following.until_done(call)
    if imported is None or imported.published is None:
        await write_until_accepted(attempt.lease.record_cancelled)
        return
    await attempt.finish(imported.published, {}, {"left_out": list(imported.left_out)})


def _imported_version(job: Job) -> VersionSpec:
    """What an import registers; of an adapter with the base that it was trained from."""
    base_id = job.spec.get("base_version_id")
    return VersionSpec(
        model=str(job.spec["model"]),
        kind="base" if base_id is None else "adapter",
        relation="import",
        base_version_id=None if base_id is None else UUID(str(base_id)),
        job_id=job.id,
    )


async def _place_worker(attempt: Attempt, worker: type) -> tuple[Any, int] | None:
    """A worker and its threads, once there is room for it; None: the job was cancelled meanwhile.

    Raises:
        ResourceExhausted: the cluster has nothing that it could ever run on.
    """
    needs = Needs.read(attempt.job.needs)
    kind = await _choose_accelerator(needs)
    share = CpuShare(needs.cpus, max(1, int(needs.cpus)))
    if kind == "CPU" and needs.accelerator:
        share = share_of_node(needs, await call_ray(list_nodes))
    options: dict[str, Any] = {
        "num_cpus": share.cpus,
        "num_gpus": 1 if kind == "GPU" else 0,
        "memory": needs.memory or None,
    }
    if (submission_id := attempt.job.submission_id) is not None:
        options["name"] = actor_name(submission_id, "worker")
        options["namespace"] = ACTOR_NAMESPACE
    remote: Any = ray.remote(max_restarts=0, **options)(worker)
    actor = await call_ray(lambda: remote.remote(attempt.settings))
    ready = asyncio.ensure_future(_result(actor.__ray_ready__.remote()))
    try:
        while not (await asyncio.wait({ready}, timeout=POLL_S))[0]:
            await attempt.show({"phase": f"waiting for a free {kind}"})
            if attempt.vitals.cancel_requested:
                await call_ray(lambda: ray.kill(actor))
                await write_until_accepted(attempt.lease.record_cancelled)
                return None
        ready.result()
    finally:
        ready.cancel()
    attempt.vitals.observe(Phase.LOAD)
    return actor, share.threads


class _Following:
    """Passes a worker's reports on, and its pulse to the heart."""

    def __init__(self, attempt: Attempt, worker: Any) -> None:
        self._attempt = attempt
        self._worker = worker
        self._told = 0

    async def until_done(self, call: Any) -> Any | None:
        """What `call` returns. None: cancelled."""
        outcome = asyncio.ensure_future(_result(call))
        try:
            return await self._follow(outcome)
        finally:
            outcome.cancel()

    async def dump_stacks(self) -> str:
        stacks: str = await self._worker.dump_stacks.remote()
        return stacks

    async def _follow(self, outcome: "asyncio.Future[Any]") -> Any | None:
        stopping = False
        while True:
            done, _ = await asyncio.wait({outcome}, timeout=POLL_S)
            try:
                await self._report()
            except RayError:
                # The worker is dead; what it died of is told better by the call it was on.
                await asyncio.wait({outcome}, timeout=POLL_S)
                if not outcome.done():
                    raise
                outcome.result()
            except DatabaseUnavailable:
                # Training goes on; the reports stay with the worker until they can be written.
                log.warning("PostgreSQL cannot be reached; reporting later")
                if done:
                    await asyncio.sleep(POLL_S)
                continue
            if done:
                result = outcome.result()
                return None if getattr(result, "stopped", False) else result
            if self._attempt.vitals.cancel_requested and not stopping:
                stopping = True
                await self._worker.stop.remote()

    async def _report(self) -> None:
        attempt = self._attempt
        pulse: Pulse = await self._worker.pulse.remote()
        attempt.vitals.observe(pulse.phase, pulse.marker, pulse.step_s)
        reports: list[Progress] = await self._worker.progress.remote(self._told)
        for report in reports:
            if report.metrics:
                await attempt.lease.metrics(report.step, report.metrics)
                numbers = describe_numbers(report.metrics)
                await attempt.say(f"step {report.step}/{report.total_steps}: {numbers}")
            else:
                await attempt.say(report.phase)
            self._told += 1
        await attempt.show(_shown(reports[-1]) if reports else None)


async def _result(call: Any) -> Any:
    return await call


def _shown(report: Progress) -> dict[str, object]:
    return {
        "phase": report.phase,
        "step": report.step,
        "total_steps": report.total_steps,
        **(report.metrics or {}),
    }


async def _choose_accelerator(needs: Needs) -> str:
    """What of the cluster the worker needs.

    Raises:
        ResourceExhausted: the cluster has no node with it.
        Unavailable: Ray does not answer.
    """
    resources: dict[str, float] = await call_ray(ray.cluster_resources)
    if needs.accelerator and resources.get("GPU", 0) >= 1:
        return "GPU"
    if resources.get("CPU", 0) >= needs.cpus:
        return "CPU"
    raise ResourceExhausted(f"the cluster has no {needs.cpus:g} CPU for a worker: add a node")
