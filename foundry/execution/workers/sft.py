"""The fine-tuning worker: one actor per accelerator that a job holds."""

import asyncio
import os
import threading
from dataclasses import asdict
from pathlib import Path
from uuid import UUID

from foundry.catalog.datasets.shards import read_rows
from foundry.config import Settings
from foundry.engines.training.progress import SftResult, TrainEvent
from foundry.errors import EngineFailed
from foundry.execution.workers.messages import Progress, Publication, Published, SftTask
from foundry.execution.workers.publishing import publish
from foundry.infra.weights import WeightCache
from foundry.infra.wiring import cache_dir, open_database, open_objects

_NOT_METRICS = frozenset({"step", "total_steps"})


def job_directory(home: Path, job_id: UUID) -> Path:
    """Where a job keeps its checkpoints: the same for every attempt, so that it can resume."""
    return home / "jobs" / str(job_id)


class SftWorker:
    """Trains in a thread, so that the actor answers `progress` and `stop` meanwhile."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._objects = open_objects(settings)
        self._cache = WeightCache(self._objects, cache_dir(settings))
        self._stop = threading.Event()
        self._reports: list[Progress] = []
        self._result: SftResult | None = None

    async def run(self, task: SftTask) -> SftResult:
        """Fetch the inputs, train, and leave the result in the job's directory.

        Raises:
            InvalidArtifact: a file of the base or the dataset fails its digest.
            DiskFull: the last whole checkpoint is kept; resume when there is room.
        """
        self._reports.append(Progress("fetching the base model and the dataset"))
        model_dir = await self._cache.ensure(task.base.digest, task.base.files)
        data_dir = await self._cache.ensure(task.dataset.digest, task.dataset.files)
        self._reports.append(Progress("preparing the data"))
        self._result = await asyncio.to_thread(self._train, task, model_dir, data_dir)
        return self._result

    def _train(self, task: SftTask, model_dir: Path, data_dir: Path) -> SftResult:
        import torch

        from foundry.engines.training.sft import run_sft

        # Ray pins OpenMP to the CPUs an actor reserves; a CPU worker may use the whole machine.
        torch.set_num_threads(os.cpu_count() or 1)
        return run_sft(
            task.config,
            model_dir=model_dir,
            train_rows=list(read_rows(data_dir / "train.jsonl.zst")),
            eval_rows=list(read_rows(data_dir / "eval.jsonl.zst")),
            work_dir=job_directory(self._settings.home, task.job_id),
            on_event=self._on_event,
            should_stop=self._stop.is_set,
        )

    def _on_event(self, event: TrainEvent) -> None:
        metrics = {
            name: float(value)
            for name, value in asdict(event).items()
            if name not in _NOT_METRICS and value is not None
        }
        self._reports.append(Progress("training", event.step, event.total_steps, metrics))

    async def progress(self, after: int) -> list[Progress]:
        """Reports number `after` and later; there are as many as the job has steps."""
        return self._reports[after:]

    async def stop(self) -> None:
        """Ask for a checkpoint and a clean end before the next step."""
        self._stop.set()

    async def publish(self, publication: Publication) -> Published:
        """Register the result of `run`, on the node that has its files."""
        result = self._result
        directory = None if result is None else result.adapter_dir or result.model_dir
        if directory is None:
            raise EngineFailed("the run was stopped before it had a result: resume the job")
        async with open_database(self._settings) as database:
            return await publish(database, self._objects, publication, directory)
