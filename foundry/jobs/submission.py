"""What is checked before a job is queued: a job that starts can finish."""

from foundry.datasets.service import Datasets
from foundry.errors import InvalidRequest
from foundry.jobs.domain import check_source
from foundry.jobs.service import Jobs
from foundry.jobs.tables import Job
from foundry.registry.domain import Kind
from foundry.registry.service import Registry
from foundry.training.config import SftConfig


class Submissions:
    """Turns references into pinned versions, so that an alias moved later changes no job."""

    def __init__(self, jobs: Jobs, registry: Registry, datasets: Datasets) -> None:
        self._jobs = jobs
        self._registry = registry
        self._datasets = datasets

    async def sft(
        self,
        name: str,
        base: str,
        dataset: str,
        config: SftConfig,
        *,
        force: bool = False,
        submission_id: str | None = None,
    ) -> tuple[Job, bool]:
        """Queue a fine-tuning job. Returns it and whether it is new.

        Args:
            submission_id: of a Ray job that is the driver already, for a job submitted by hand.

        Raises:
            ModelNotFound, NotFound: base or dataset do not exist.
            InvalidRequest: the base cannot be trained, or the sequences exceed its context.
        """
        base_version = await self._registry.resolve(base)
        data = await self._datasets.resolve(dataset)
        if base_version.kind == "adapter":
            raise InvalidRequest(
                f"{base_version.reference} is an adapter: train from its base", param="base"
            )
        context = base_version.context_length
        if context is not None and config.max_seq_len > context:
            raise InvalidRequest(
                f"config.max_seq_len is {config.max_seq_len}, but {base_version.reference} reads "
                f"{context} tokens at most",
                param="config.max_seq_len",
            )
        kind: Kind = "adapter" if config.method.kind == "lora" else "merged"
        await self._registry.check_kind(name, kind)
        spec: dict[str, object] = {
            "model": name,
            "base": base_version.reference,
            "base_version_id": str(base_version.id),
            "dataset": data.reference,
            "dataset_version_id": str(data.id),
            "config": config.model_dump(mode="json"),
        }
        identity: dict[str, object] = {
            "base": base_version.digest,
            "dataset": data.digest,
            "config": config.digest(),
        }
        return await self._jobs.submit(
            "sft", name, spec, identity=identity, force=force, submission_id=submission_id
        )

    async def import_model(
        self, name: str, source: str, *, force: bool = False
    ) -> tuple[Job, bool]:
        """Queue an import. Returns it and whether it is new."""
        check_source(source)
        await self._registry.check_kind(name, "base")
        spec: dict[str, object] = {"model": name, "source": source}
        return await self._jobs.submit("import", name, spec, force=force)
