"""The one transaction in which a version comes into being."""

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.artifacts import Inspection
from foundry.catalog.registry.blobs import BlobUpload
from foundry.catalog.registry.domain import (
    FIRST_VERSION,
    Kind,
    Stage,
    Version,
    VersionSpec,
    version_digest,
)
from foundry.catalog.registry.model_rows import Models
from foundry.catalog.registry.repository import Versions
from foundry.catalog.registry.tables import Model, ModelVersion, VersionFile, VersionMetric
from foundry.errors import Conflict, InvalidArtifact, InvalidRequest, ModelNotFound, VersionExists
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.ids import uuid7

_COUNT_TOLERANCE = 0.01


class Registration:
    def __init__(self, db: AsyncSession, audit: AuditTrail, principal: Principal) -> None:
        self._db = db
        self._audit = audit
        self._principal = principal
        self._models = Models(db, principal.tenant_id)
        self._versions = Versions(db, principal.tenant_id)

    async def insert(
        self, spec: VersionSpec, inspection: Inspection, upload: BlobUpload
    ) -> ModelVersion:
        base = await self._hold_parents(spec)
        check_declared(spec, inspection)
        digest = version_digest((file.path, file.size, file.sha256) for file in inspection.files)
        model, created = await self._ensure_model(spec, inspection, base)
        # The model row is locked, so a second registration of the same job waits for us.
        if earlier := await self._find_earlier(spec, digest):
            return earlier
        version = self._make_row(spec, inspection, base, digest)
        version.model_id, version.model = model.id, model
        number = await self._choose_number(spec, model)
        version.major, version.minor, version.patch = number.major, number.minor, number.patch
        version.pre, version.pre_key, version.build = number.pre, number.pre_key, number.build
        self._db.add(version)
        await self._db.flush()
        await self._add_files(version, inspection, upload)
        self._add_metrics(version, spec.metrics)
        await self._record_creation(version, created)
        return version

    async def _find_earlier(self, spec: VersionSpec, digest: str) -> ModelVersion | None:
        if spec.job_id is None:
            return None
        return await self._versions.find_of_job(spec.job_id, digest)

    async def _hold_parents(self, spec: VersionSpec) -> ModelVersion | None:
        """Hold base and parent, so that they outlive this transaction. Returns the base."""
        base = None
        if spec.kind == "adapter" and spec.base_version_id is None:
            raise InvalidRequest("an adapter needs the version of its base", param="base")
        for version_id in dict.fromkeys((spec.base_version_id, spec.parent_version_id)):
            if version_id is None:
                continue
            found = await self._versions.hold(version_id)
            if found is None or not found.usable:
                raise ModelNotFound(f"the parent version {version_id} does not exist")
            if version_id == spec.base_version_id:
                base = found
        if base is not None and base.kind == "adapter":
            raise InvalidRequest(f"{base.reference} is an adapter, not a base", param="base")
        return base

    async def _ensure_model(
        self, spec: VersionSpec, inspection: Inspection, base: ModelVersion | None
    ) -> tuple[Model, bool]:
        model, created = await self._models.ensure_model(
            {
                "id": uuid7(),
                "project_id": self._principal.project_id,
                "name": spec.model,
                "kind": spec.kind,
                "architecture": _choose_architecture(spec, inspection, base),
                "parameter_count": inspection.parameter_count,
                "context_length": _choose_context_length(spec, inspection, base),
                "licence": spec.licence,
                "tags": [],
                "created_by": self._principal.subject,
            }
        )
        check_same_kind(model, spec.kind)
        return model, created

    async def _choose_number(self, spec: VersionSpec, model: Model) -> Version:
        if spec.version is None:
            highest = await self._versions.find_highest(model.id)
            return highest.semver.bump(spec.bump) if highest else FIRST_VERSION
        wanted = Version.parse(spec.version)
        if await self._versions.find_by_number(model.name, wanted):
            raise VersionExists(
                f"{model.name}@{wanted} exists already: a version never changes, take a higher one",
                param="version",
            )
        return wanted

    def _make_row(
        self,
        spec: VersionSpec,
        inspection: Inspection,
        base: ModelVersion | None,
        digest: str,
    ) -> ModelVersion:
        targets = inspection.lora_targets
        return ModelVersion(
            id=uuid7(),
            tenant_id=self._principal.tenant_id,
            kind=spec.kind,
            parent_version_id=spec.parent_version_id,
            base_version_id=spec.base_version_id,
            relation=spec.relation,
            stage=Stage.READY.value,
            digest=digest,
            size_bytes=sum(file.size for file in inspection.files),
            job_id=spec.job_id,
            dataset_version_id=spec.dataset_version_id,
            architecture=_choose_architecture(spec, inspection, base),
            parameter_count=inspection.parameter_count,
            context_length=_choose_context_length(spec, inspection, base),
            lora_rank=inspection.lora_rank,
            lora_targets=None if targets is None else list(targets),
            config_digest=spec.config_digest,
            code_ref=spec.code_ref,
            created_by=self._principal.subject,
        )

    async def _add_files(
        self, version: ModelVersion, inspection: Inspection, upload: BlobUpload
    ) -> None:
        blobs = await upload.claim(self._db, inspection.files)
        self._db.add_all(
            VersionFile(
                version_id=version.id,
                tenant_id=version.tenant_id,
                path=file.path,
                size=file.size,
                sha256=file.sha256,
                media_type=file.media_type,
                blob_id=blobs[file.sha256].id,
            )
            for file in inspection.files
        )

    def _add_metrics(self, version: ModelVersion, metrics: dict[str, float]) -> None:
        self._db.add_all(
            VersionMetric(
                version_id=version.id,
                tenant_id=version.tenant_id,
                name=name,
                step=0,
                value=value,
            )
            for name, value in metrics.items()
        )

    async def _record_creation(self, version: ModelVersion, created: bool) -> None:
        if created:
            await self._audit.record(
                "model.create", "model", str(version.model_id), after={"name": version.name}
            )
        await self._audit.record(
            "version.create",
            "model_version",
            str(version.id),
            after={
                "reference": version.reference,
                "digest": version.digest,
                "relation": version.relation,
                "job_id": version.job_id,
            },
        )


def check_same_kind(model: Model, kind: Kind) -> None:
    """Check that a version fits the model that it is for.

    Raises Conflict: one model holds one kind of version.
    """
    if model.kind != kind:
        raise Conflict(
            f"{model.name} holds versions of kind {model.kind}, not {kind}: choose another name",
            param="name",
        )


def check_declared(spec: VersionSpec, inspection: Inspection) -> None:
    """Compare what the caller declared with what the files say.

    Raises InvalidArtifact: the caller's facts contradict the files.
    """
    count = inspection.parameter_count
    pairs = (
        ("architecture", spec.architecture, inspection.architecture),
        ("context_length", spec.context_length, inspection.context_length),
        ("lora_rank", spec.lora_rank, inspection.lora_rank),
    )
    for name, declared, found in pairs:
        if declared is not None and found is not None and declared != found:
            raise _make_mismatch_error(name, declared, found)
    declared_count = spec.parameter_count
    if declared_count is not None and abs(declared_count - count) > _COUNT_TOLERANCE * count:
        raise _make_mismatch_error("parameter_count", declared_count, count)
    targets = spec.lora_targets
    if targets is not None and tuple(sorted(targets)) != inspection.lora_targets:
        raise _make_mismatch_error("lora_targets", sorted(targets), inspection.lora_targets)


def _make_mismatch_error(name: str, declared: object, found: object) -> InvalidArtifact:
    return InvalidArtifact(
        f"{name} was declared as {declared}, the files say {found}",
        reason="metadata_mismatch",
        param=name,
    )


def _choose_architecture(
    spec: VersionSpec, inspection: Inspection, base: ModelVersion | None
) -> str | None:
    inherited = base.architecture if base else None
    return inspection.architecture or spec.architecture or inherited


def _choose_context_length(
    spec: VersionSpec, inspection: Inspection, base: ModelVersion | None
) -> int | None:
    inherited = base.context_length if base else None
    return inspection.context_length or spec.context_length or inherited
