"""What is checked before a job is queued: a job that starts can finish."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from uuid import UUID

from foundry.catalog.datasets.service import Datasets
from foundry.catalog.registry.domain import Kind
from foundry.catalog.registry.service import Registry
from foundry.engines.training.config import SftConfig
from foundry.engines.training.diloco.config import DilocoConfig
from foundry.errors import ModelNotFound
from foundry.execution.jobs.checking import Training, TrainingCheck, check_nothing_ignored
from foundry.execution.jobs.domain import FLEET_WORKER_CPUS, JobKind
from foundry.execution.jobs.importing import ImportCheck, SourceLook
from foundry.execution.jobs.placement import Needs
from foundry.execution.jobs.service import Jobs
from foundry.execution.jobs.tables import Job
from foundry.serving.endpoints.serving_rank import ServingRanks


@dataclass(frozen=True, slots=True)
class _Request:
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
    ) -> tuple[Job, bool]:
        """Queue a fine-tuning job. Returns it and whether it is new.

        Args:
            submission_id: of a Ray job that is the driver already, for a job submitted by hand.

        Raises:
            ModelNotFound, NotFound: base or dataset do not exist.
            Conflict: a field was set that would be ignored.
            FoundryError: it could not end well; see `TrainingCheck.check`.
        """
        needs = Needs(accelerator=True)
        training = Training(config, config, "config", needs)
        return await self._train(
            _Request("sft", name, base, dataset, training, needs, force, submission_id, priority)
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
    ) -> tuple[Job, bool]:
        """As `sft`, by a fleet of workers."""
        fleet = config.fleet
        needs = Needs(fleet.needed, FLEET_WORKER_CPUS, accelerator=True)
        # Who sets a quorum knows that the others may come later, or never.
        together = replace(needs, workers=fleet.quorum or fleet.workers)
        training = Training(config, config.inner, "config.inner", together)
        return await self._train(
            _Request("diloco", name, base, dataset, training, needs, force, submission_id, priority)
        )

    async def _train(self, asked: _Request) -> tuple[Job, bool]:
        base = await self._registry.resolve(asked.base)
        # Held, so that it is not deleted before the job is there to refuse that.
        data = await self._datasets.hold(asked.dataset)
        config, method = asked.training.config, asked.training.inner.method
        kind: Kind = "adapter" if method.kind == "lora" else "merged"
        await self._registry.check_kind(asked.name, kind)
        spec: dict[str, object] = {
            "model": asked.name,
            "base": base.reference,
            "base_version_id": str(base.id),
            "dataset": data.reference,
            "dataset_version_id": str(data.id),
            "config": config.model_dump(mode="json"),
        }
        identity: dict[str, object] = {
            "base": base.digest,
            "dataset": data.digest,
            "config": config.digest(),
        }
        check_nothing_ignored(asked.training, data)

        async def vet() -> None:
            files = await self._registry.manifest(base.id)
            served = await self._ranks.read_rank(base)
            await self._check.check(asked.training, base, files, data, served)

        return await self._once(
            lambda force: self._jobs.submit(
                asked.job,
                asked.name,
                spec,
                identity=identity,
                force=force,
                submission_id=asked.submission_id,
                priority=asked.priority,
                needs=asked.needs,
                vet=vet,
            ),
            force=asked.force,
        )

    async def import_model(
        self,
        name: str,
        look: SourceLook,
        *,
        base: str | None = None,
        force: bool = False,
        priority: int = 0,
    ) -> tuple[Job, bool]:
        """Queue an import. Returns it and whether it is new.

        Args:
            look: what was seen of its source before this transaction.
            base: what an adapter was trained from; None: the model that it names itself.

        Raises:
            FoundryError: it could not end well; see `ImportCheck.prepare`.
        """
        assert self._imports is not None
        asked = await self._imports.prepare(name, look, base)
        return await self._once(
            lambda force: self._jobs.submit(
                "import", name, asked.spec, identity=asked.identity, force=force, priority=priority
            ),
            force=force,
        )

    async def _once(
        self, submit: Callable[[bool], Awaitable[tuple[Job, bool]]], *, force: bool
    ) -> tuple[Job, bool]:
        """Submit, and again if the result of the same job was deleted since."""
        job, created = await submit(force)
        if created or await self._has_result(job):
            return job, created
        return await submit(True)

    async def _has_result(self, job: Job) -> bool:
        """Whether the version that a job has made, or will make, may be used."""
        version_id = (job.result or {}).get("version_id")
        if version_id is None:
            return True
        try:
            return (await self._registry.get(UUID(str(version_id)))).usable
        except ModelNotFound:
            return False
