"""A DiLoCo job: its driver is the fleet's coordinator, under the job's lease."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from foundry.catalog.datasets.domain import EVAL_FILE, TRAIN_FILE
from foundry.catalog.datasets.service import load_dataset
from foundry.catalog.datasets.shards import read_rows
from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.service import load_manifest
from foundry.config import Settings
from foundry.engines.training.config import Lora, SftConfig
from foundry.engines.training.diloco.config import DilocoConfig
from foundry.engines.training.workload import SftWorkload
from foundry.errors import DatabaseUnavailable, Unavailable
from foundry.execution.fleets.domain import RoundRecord
from foundry.execution.fleets.service import FleetLog, storage_prefix
from foundry.execution.jobs.domain import STEPS_ALLOWED, Phase
from foundry.execution.workers.attempt import POLL_S, Attempt, write_until_accepted
from foundry.execution.workers.diloco.accounts import FleetResult
from foundry.execution.workers.diloco.checkpoints import Checkpoints
from foundry.execution.workers.diloco.fleet import Placement, run_fleet
from foundry.execution.workers.diloco.messages import FleetProgress
from foundry.execution.workers.diloco.parties import MemberHandle
from foundry.execution.workers.diloco.worker import Storage
from foundry.execution.workers.messages import Inputs, Published, describe_numbers
from foundry.infra.wiring import open_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RegistrySource:
    """A registered model and dataset; each node fetches them once, by digest.

    Attributes:
        began: when the job was made; templates that print the date are told this one.
    """

    settings: Settings
    base: Inputs
    dataset: Inputs
    config: SftConfig
    began: datetime

    def open(self) -> SftWorkload:
        """Fetch the inputs and prepare them.

        Raises:
            InvalidArtifact: a file of the base or the dataset fails its digest.
            InvalidDataset: a row cannot be used, or nothing is left to train on.
        """
        cache = open_weights(self.settings)
        model_dir = asyncio.run(cache.ensure(self.base.digest, self.base.files, keep=True))
        data_dir = asyncio.run(cache.ensure(self.dataset.digest, self.dataset.files, keep=True))
        return SftWorkload.prepare(
            self.config,
            model_dir,
            list(read_rows(data_dir / TRAIN_FILE)),
            list(read_rows(data_dir / EVAL_FILE)),
            began=self.began,
        )


async def train_fleet(attempt: Attempt) -> None:
    """See a fleet's training through, from its rows to a registered version.

    Raises:
        LeaseLost: another attempt has taken over.
        ResourceExhausted: no node could ever hold a worker.
        EngineFailed: workers keep dying.
    """
    await _FleetJob(attempt).run()


# Where the coordinator is, for the watchdog; in all others it trains or exchanges. Lost and hung
# members are the roster's to find: the watchdog is for a coordinator that does not move.
_PHASES = {
    "starting the workers": Phase.PLACE,
    "waiting for a quorum": Phase.PLACE,
    "waiting for the database": Phase.PLACE,
    "stopping": Phase.CHECKPOINT,
    "writing a checkpoint": Phase.CHECKPOINT,
    "publishing": Phase.PUBLISH,
}
# A member is given up after `stall_s`; only then is there nothing new to see.
_STALLS_ALLOWED = 3


class _FleetJob:
    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._config = DilocoConfig.model_validate(attempt.job.spec["config"])
        self._log = FleetLog(attempt.database, attempt.job.id, attempt.lease.fence)
        self._storage = Storage(attempt.settings, storage_prefix(attempt.job.id))
        self._shown: FleetProgress | None = None
        self._phase = ""
        self._rounds: list[tuple[int, dict[str, float]]] = []
        self._published: Published | None = None

    async def run(self) -> None:
        attempt, spec = self._attempt, self._attempt.job.spec
        base = await load_manifest(attempt.database, UUID(str(spec["base_version_id"])))
        dataset = await load_dataset(attempt.database, UUID(str(spec["dataset_version_id"])))
        await attempt.say_if_unmeasured(dataset.eval_rows)
        training = asyncio.ensure_future(
            run_fleet(
                RegistrySource(
                    attempt.settings,
                    Inputs(base.digest, base.files),
                    Inputs(dataset.digest, dataset.files),
                    self._config.inner,
                    attempt.job.created_at,
                ),
                self._config,
                self._log,
                on_progress=self._progressed,
                on_round=self._committed,
                should_stop=lambda: attempt.vitals.cancel_requested,
                storage=self._storage,
                finish=self._publish,
                placement=Placement(submission_id=attempt.job.submission_id),
            )
        )
        try:
            result = await self._follow(training)
        finally:
            training.cancel()
            await asyncio.gather(training, return_exceptions=True)
        if result.stopped or self._published is None:
            await write_until_accepted(attempt.lease.record_cancelled)
            return
        await attempt.finish(self._published, _metrics(result))
        await self._clean_up()

    async def _clean_up(self) -> None:
        """Checkpoints of a job that has succeeded; it has, whether or not they can be removed."""
        try:
            await Checkpoints(self._storage.open(), self._log).remove_all()
            await self._log.forget_checkpoints()
        except Unavailable as error:
            log.warning("checkpoints of job %s stay: %s", self._attempt.job.id, error.message)

    async def _follow(self, training: "asyncio.Task[FleetResult]") -> FleetResult:
        """Renew the lease and report until the fleet is done."""
        while True:
            done, _ = await asyncio.wait({training}, timeout=POLL_S)
            try:
                await self._report()
            except DatabaseUnavailable:
                # Training goes on; what cannot be written is written later.
                await asyncio.sleep(POLL_S)
                continue
            if done:
                return training.result()

    async def _report(self) -> None:
        attempt, shown = self._attempt, self._shown
        while self._rounds:
            round, metrics = self._rounds[0]
            await attempt.lease.metrics(round, metrics)
            await attempt.say(f"round {round}: {describe_numbers(metrics)}")
            del self._rounds[0]
        if shown is None:
            return
        if shown.phase != self._phase:
            await attempt.say(shown.phase)
            self._phase = shown.phase
        await attempt.show(_live(shown))

    def _progressed(self, progress: FleetProgress) -> None:
        self._shown = progress
        batches = tuple(str(member.get("batches")) for member in progress.fleet)
        marker = (progress.step, progress.round, progress.data_bytes, progress.heal_bytes, batches)
        patience = self._config.fleet.stall_s * _STALLS_ALLOWED / STEPS_ALLOWED
        self._attempt.vitals.observe(
            _PHASES.get(progress.phase, Phase.TRAIN), (progress.phase, marker), patience
        )

    def _committed(self, record: RoundRecord, metrics: Mapping[str, float]) -> None:
        self._rounds.append((record.round, dict(metrics)))

    async def _publish(self, member: MemberHandle, result: FleetResult) -> None:
        spec, config = self._attempt.job.spec, self._config
        lora = isinstance(config.inner.method, Lora)
        base_id = UUID(str(spec["base_version_id"]))
        version = VersionSpec(
            model=str(spec["model"]),
            kind="adapter" if lora else "merged",
            relation="diloco",
            parent_version_id=base_id,
            base_version_id=base_id if lora else None,
            job_id=self._attempt.job.id,
            dataset_version_id=UUID(str(spec["dataset_version_id"])),
            config_digest=config.digest(),
            metrics=_metrics(result),
        )
        history: dict[str, Any] = {
            "config": config.model_dump(mode="json"),
            "rounds": result.round,
            "digest": result.digest,
            "batches": result.batches,
            "members": [asdict(event) for event in await self._log.history()],
        }
        self._published = await member.publish(self._attempt.publication(version), history)


def _live(progress: FleetProgress) -> dict[str, object]:
    document = asdict(progress)
    data, heal = document.pop("data_bytes"), document.pop("heal_bytes")
    return {**document, "bytes": {"data": data, "heal": heal}}


def _metrics(result: FleetResult) -> dict[str, float]:
    values = {
        "loss": result.loss,
        "eval_loss": result.eval_loss,
        "trained_tokens": float(result.tokens),
        "rounds": float(result.round),
        "aborts": float(result.aborts),
        "bytes_data": float(result.data_bytes),
        "bytes_heal": float(result.heal_bytes),
    }
    return {name: value for name, value in values.items() if value is not None}
