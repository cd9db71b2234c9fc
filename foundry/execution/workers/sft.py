"""The fine-tuning worker: one actor per accelerator that a job holds."""

import asyncio
import threading
import time
from dataclasses import asdict
from pathlib import Path

from foundry.catalog.datasets.domain import EVAL_FILE, TRAIN_FILE
from foundry.catalog.datasets.shards import read_rows
from foundry.config import Settings
from foundry.engines.training.progress import Activity, SftResult, TrainEvent
from foundry.errors import EngineFailed
from foundry.execution.jobs.domain import Phase
from foundry.execution.workers.checkpoints import RunCheckpoints
from foundry.execution.workers.directories import attempt_directory
from foundry.execution.workers.messages import Progress, Publication, Published, Pulse, SftTask
from foundry.execution.workers.publishing import publish
from foundry.execution.workers.stacks import describe_stacks
from foundry.infra.weights import WeightCache
from foundry.infra.wiring import cache_dir, open_database, open_objects

_EVALUATING = "evaluating"
_NOT_METRICS = frozenset({"step", "total_steps"})
_PHASES: dict[Activity, Phase] = {
    "train": Phase.TRAIN,
    "evaluate": Phase.TRAIN,
    "checkpoint": Phase.CHECKPOINT,
    "export": Phase.PUBLISH,
}
# Weight of the newest step in the moving time.
_SMOOTHING = 0.2


class _Activity:
    """What the training thread does, as the watchdog sees it."""

    def __init__(self) -> None:
        self._phase = Phase.LOAD
        self._count = 0
        self._step_began: float | None = None
        self._step_s: float | None = None

    def note(self, activity: Activity) -> None:
        now = time.monotonic()
        if self._step_began is not None:
            spent = now - self._step_began
            before = self._step_s if self._step_s is not None else spent
            self._step_s = before + _SMOOTHING * (spent - before)
        self._step_began = now if activity == "train" else None
        self._phase = _PHASES[activity]
        self._count += 1

    def pulse(self, loaded_bytes: int) -> Pulse:
        phase = self._phase
        if phase is Phase.TRAIN and self._step_s is None:
            # The first step may compile kernels, and says nothing about the later ones.
            phase = Phase.COMPILE
        return Pulse(phase, (self._count, loaded_bytes), self._step_s)


class SftWorker:
    """Trains in a thread, so that the actor answers `progress`, `pulse` and `stop` meanwhile."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._objects = open_objects(settings)
        self._cache = WeightCache(self._objects, cache_dir(settings))
        self._stop = threading.Event()
        self._activity = _Activity()
        self._fetching: list[str] = []
        self._reports: list[Progress] = []
        self._result: SftResult | None = None

    async def run(self, task: SftTask) -> SftResult:
        """Fetch the inputs, train, and leave the result in the attempt's directory.

        Raises:
            InvalidArtifact: a file of the base or the dataset fails its digest.
            DiskFull: the last whole checkpoint is kept; resume when there is room.
            LeaseLost: another attempt has taken over.
        """
        self._reports.append(Progress("fetching the base model and the dataset"))
        self._fetching = [task.base.digest, task.dataset.digest]
        model_dir = await self._cache.ensure(task.base.digest, task.base.files, keep=True)
        data_dir = await self._cache.ensure(task.dataset.digest, task.dataset.files, keep=True)
        self._fetching = []
        self._reports.append(Progress("preparing the data"))
        self._result = await asyncio.to_thread(self._train, task, model_dir, data_dir)
        return self._result

    def _train(self, task: SftTask, model_dir: Path, data_dir: Path) -> SftResult:
        import torch

        from foundry.engines.training.devices import describe_device, release_memory
        from foundry.engines.training.sft import run_sft

        torch.set_num_threads(task.threads)
        self._say(f"preparing to train in {describe_device(task.config.precision)}")
        work_dir = attempt_directory(self._settings.home, task.job_id, task.fence)
        try:
            return run_sft(
                task.config,
                model_dir=model_dir,
                train_rows=list(read_rows(data_dir / TRAIN_FILE)),
                eval_rows=list(read_rows(data_dir / EVAL_FILE)),
                work_dir=work_dir,
                on_event=self._on_event,
                should_stop=self._stop.is_set,
                on_activity=self._note_activity,
                checkpoints=RunCheckpoints(
                    self._settings, task.job_id, task.fence, work_dir, self._say
                ),
                began=task.began,
            )
        finally:
            # Publishing takes minutes, in which others may use the device.
            release_memory()

    def _note_activity(self, activity: Activity) -> None:
        self._activity.note(activity)
        last = self._reports[-1]
        if activity == "evaluate" and last.phase != _EVALUATING:
            # It takes as long as many steps: whoever waits for the next one is told why.
            self._reports.append(Progress(_EVALUATING, last.step, last.total_steps))

    def _say(self, words: str) -> None:
        self._reports.append(Progress(words))

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

    async def pulse(self) -> Pulse:
        """Where the work is, and whether it moves."""
        loaded = await asyncio.to_thread(self._loaded_bytes) if self._fetching else 0
        return self._activity.pulse(loaded)

    async def dump_stacks(self) -> str:
        """What every thread is doing."""
        return describe_stacks()

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

    def _loaded_bytes(self) -> int:
        """Bytes of the inputs that have arrived, whichever process of this node fetches them."""
        root = cache_dir(self._settings)
        return sum(
            path.stat().st_size
            for digest in self._fetching
            for path in root.glob(f".{digest}.partial/**/*")
            if path.is_file()
        )
