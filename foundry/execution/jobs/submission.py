"""What is checked before a job is queued: a job that starts can finish."""

from dataclasses import dataclass

from foundry.catalog.datasets.service import Datasets
from foundry.catalog.registry.domain import Kind
from foundry.catalog.registry.service import ModelVersion, Registry
from foundry.engines.training.config import SftConfig
from foundry.engines.training.diloco.config import DilocoConfig
from foundry.errors import Conflict, InvalidRequest
from foundry.execution.jobs.domain import FLEET_WORKER_CPUS, JobKind
from foundry.execution.jobs.importing import ImportCheck
from foundry.execution.jobs.placement import Needs
from foundry.execution.jobs.service import Jobs
from foundry.execution.jobs.tables import Job


@dataclass(frozen=True, slots=True)
class _Training:
    """What is asked for.

    Attributes:
        inner: the optimiser's part of `config`, which the request calls `where`.
    """

    job: JobKind
    name: str
    base: str
    dataset: str
    config: SftConfig | DilocoConfig
    inner: SftConfig
    where: str
    needs: Needs
    priority: int


class Submissions:
    """Turns references into pinned versions, so that an alias moved later changes no job."""

    def __init__(
        self,
        jobs: Jobs,
        registry: Registry,
        datasets: Datasets,
        imports: ImportCheck | None = None,
    ) -> None:
        self._jobs = jobs
        self._registry = registry
        self._datasets = datasets
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
            InvalidRequest: the base cannot be trained, or the sequences exceed its context.
        """
        needs = Needs(accelerator=True)
        asked = _Training("sft", name, base, dataset, config, config, "config", needs, priority)
        return await self._train(asked, force=force, submission_id=submission_id)

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
        needs = Needs(config.fleet.needed, FLEET_WORKER_CPUS, accelerator=True)
        asked = _Training(
            "diloco", name, base, dataset, config, config.inner, "config.inner", needs, priority
        )
        return await self._train(asked, force=force, submission_id=submission_id)

    async def _train(
        self, asked: _Training, *, force: bool, submission_id: str | None
    ) -> tuple[Job, bool]:
        base = await self._registry.resolve(asked.base)
        # Held, so that it is not deleted before the job is there to refuse that.
        data = await self._datasets.hold(asked.dataset)
        _check_trainable(base, asked)
        _check_evaluation(data.reference, data.eval_rows, asked)
        kind: Kind = "adapter" if asked.inner.method.kind == "lora" else "merged"
        await self._registry.check_kind(asked.name, kind)
        spec: dict[str, object] = {
            "model": asked.name,
            "base": base.reference,
            "base_version_id": str(base.id),
            "dataset": data.reference,
            "dataset_version_id": str(data.id),
            "config": asked.config.model_dump(mode="json"),
        }
        identity: dict[str, object] = {
            "base": base.digest,
            "dataset": data.digest,
            "config": asked.config.digest(),
        }
        return await self._jobs.submit(
            asked.job,
            asked.name,
            spec,
            identity=identity,
            force=force,
            submission_id=submission_id,
            priority=asked.priority,
            needs=asked.needs,
        )

    async def import_model(
        self,
        name: str,
        source: str,
        *,
        base: str | None = None,
        force: bool = False,
        priority: int = 0,
    ) -> tuple[Job, bool]:
        """Queue an import. Returns it and whether it is new.

        Args:
            base: what an adapter was trained from; None: the model that it names itself.

        Raises:
            FoundryError: it could not end well; see `ImportCheck.prepare`.
        """
        assert self._imports is not None
        asked = await self._imports.prepare(name, source, base)
        return await self._jobs.submit(
            "import", name, asked.spec, identity=asked.identity, force=force, priority=priority
        )


def _check_evaluation(dataset: str, eval_rows: int, asked: _Training) -> None:
    if eval_rows == 0 and asked.inner.eval_every is not None:
        raise Conflict(
            f"{asked.where}.eval_every is set, but {dataset} holds no rows out: leave it out, or "
            "add the dataset with an eval_fraction above 0",
            param=f"{asked.where}.eval_every",
        )


def _check_trainable(base: ModelVersion, asked: _Training) -> None:
    if base.kind == "adapter":
        raise InvalidRequest(f"{base.reference} is an adapter: train from its base", param="base")
    context, length = base.context_length, asked.inner.max_seq_len
    if context is not None and length > context:
        raise InvalidRequest(
            f"{asked.where}.max_seq_len is {length}, but {base.reference} reads {context} tokens "
            "at most",
            param=f"{asked.where}.max_seq_len",
        )
