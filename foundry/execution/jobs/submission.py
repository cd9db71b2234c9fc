"""What is checked before a job is queued: a job that starts can finish.

A submission pins its references to versions, finds the same job that was there before, checks what
is new, and queues it.
"""

from dataclasses import dataclass, replace
from uuid import UUID

from foundry.catalog.datasets.service import Datasets, DatasetVersion
from foundry.catalog.registry.service import ModelVersion, Registry
from foundry.engines.training.config import SftConfig
from foundry.engines.training.diloco.config import DilocoConfig
from foundry.errors import ModelNotFound
from foundry.execution.jobs.checking import Training, TrainingCheck, check_nothing_ignored
from foundry.execution.jobs.domain import FLEET_WORKER_CPUS, JobKind
from foundry.execution.jobs.importing import ImportCheck, SourceLook
from foundry.execution.jobs.placement import Needs
from foundry.execution.jobs.request import JobRequest
from foundry.execution.jobs.service import Jobs, describe_same
from foundry.execution.jobs.tables import Job
from foundry.infra.answers import Answer
from foundry.serving.endpoints.serving_rank import ServingRanks


@dataclass(frozen=True, slots=True)
class _TrainingRequest:
    """A training as its owner asks for it."""

    job: JobKind
    name: str
    base: str
    dataset: str
    training: Training
    needs: Needs
    force: bool
    submission_id: str | None
    priority: int


class Submissions:
    """Turns references into pinned versions, so that an alias moved later changes no job."""

    def __init__(
        self,
        jobs: Jobs,
        registry: Registry,
        datasets: Datasets,
        ranks: ServingRanks,
        check: TrainingCheck | None = None,
        imports: ImportCheck | None = None,
    ) -> None:
        """Remember whom to ask.

        Args:
            ranks: of adapters that bases are served with.
            check: None: only of what the database knows.
            imports: None: nothing is imported.
        """
        self._jobs = jobs
        self._registry = registry
        self._datasets = datasets
        self._check = check or TrainingCheck()
        self._ranks = ranks
        self._imports = imports

    async def sft(
        self,
        name: str,
        base: str,
        dataset: str,
        config: SftConfig,
        *,
        force: bool = False,
        submission_id: str | None = None,
        priority: int = 0,
    ) -> Answer[Job]:
        """Queue a fine-tuning job, or find the same one.

        Args:
            submission_id: of a Ray job that is the driver already, for a job submitted by hand.

        Raises:
            ModelNotFound, NotFound: base or dataset do not exist.
            Conflict: a field was set that would be ignored.
            FoundryError: it could not end well; see `TrainingCheck.check`.
        """
        needs = Needs(accelerator=True)
        training = Training(config, config, "config", needs)
        return await self._submit_training(
            _TrainingRequest(
                "sft", name, base, dataset, training, needs, force, submission_id, priority
            )
        )

    async def diloco(
        self,
        name: str,
        base: str,
        dataset: str,
        config: DilocoConfig,
        *,
        force: bool = False,
        submission_id: str | None = None,
        priority: int = 0,
    ) -> Answer[Job]:
        """Queue a fine-tuning by a fleet of workers, or find the same one; see `sft`."""
        fleet = config.fleet
        needs = Needs(fleet.needed, FLEET_WORKER_CPUS, accelerator=True)
        # Who sets a quorum knows that the others may come later, or never.
        together = replace(needs, workers=fleet.quorum or fleet.workers)
        training = Training(config, config.inner, "config.inner", together)
        return await self._submit_training(
            _TrainingRequest(
                "diloco", name, base, dataset, training, needs, force, submission_id, priority
            )
        )

    async def _submit_training(self, asked: _TrainingRequest) -> Answer[Job]:
        base = await self._registry.resolve(asked.base)
        # Held, so that it is not deleted before the job is there to refuse that.
        data = await self._datasets.hold(asked.dataset)
        await self._registry.check_kind(asked.name, asked.training.result_kind)
        check_nothing_ignored(asked.training, data)
        request = _describe_training(asked, base, data)
        same = await self._find_same_job(request)
        if same is not None:
            return Answer(same, describe_same(same))
        await self._check_training(asked.training, base, data)
        return Answer(await self._jobs.queue_job(request))

    async def _check_training(
        self, training: Training, base: ModelVersion, data: DatasetVersion
    ) -> None:
        """Refuse what could not end well; see `TrainingCheck.check`."""
        files = await self._registry.manifest(base.id)
        served = await self._ranks.read_rank(base)
        await self._check.check(training, base, files, data, served)

    async def import_model(
        self,
        name: str,
        look: SourceLook,
        *,
        base: str | None = None,
        force: bool = False,
        priority: int = 0,
    ) -> Answer[Job]:
        """Queue an import, or find the same one.

        Args:
            look: what was seen of its source before this transaction.
            base: what an adapter was trained from; None: the model that it names itself.

        Raises:
            FoundryError: it could not end well; see `ImportCheck.prepare`.
        """
        assert self._imports is not None
        prepared = await self._imports.prepare(name, look, base)
        request = JobRequest(
            "import", name, prepared.spec, prepared.identity, force=force, priority=priority
        )
        same = await self._find_same_job(request)
        if same is not None:
            return Answer(same, describe_same(same))
        return Answer(await self._jobs.queue_job(request))

    async def _find_same_job(self, request: JobRequest) -> Job | None:
        """An equal job whose result may be used; None as well if that was deleted since."""
        same = await self._jobs.find_same_job(request)
        return same if same is not None and await self._has_result(same) else None

    async def _has_result(self, job: Job) -> bool:
        """Whether the version that a job has made, or will make, may be used."""
        version_id = (job.result or {}).get("version_id")
        if version_id is None:
            return True
        try:
            return (await self._registry.get(UUID(str(version_id)))).usable
        except ModelNotFound:
            return False


def _describe_training(
    asked: _TrainingRequest, base: ModelVersion, data: DatasetVersion
) -> JobRequest:
    """The job of a training from these versions."""
    config = asked.training.config
    return JobRequest(
        asked.job,
        asked.name,
        spec={
            "model": asked.name,
            "base": base.reference,
            "base_version_id": str(base.id),
            "dataset": data.reference,
            "dataset_version_id": str(data.id),
            "config": config.model_dump(mode="json"),
        },
        identity={"base": base.digest, "dataset": data.digest, "config": config.digest()},
        force=asked.force,
        submission_id=asked.submission_id,
        priority=asked.priority,
        needs=asked.needs,
    )
