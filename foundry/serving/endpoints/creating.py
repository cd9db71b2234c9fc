"""How a base gets its endpoint: one that is there already is found, and keeps its options."""

import json
from collections.abc import Mapping
from typing import cast

from foundry.catalog.registry.service import ModelVersion, Registry
from foundry.config import ServingSettings
from foundry.errors import Conflict
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.answers import Answer
from foundry.serving.endpoints.checking import EngineCheck
from foundry.serving.endpoints.configuring import describe_change, next_options
from foundry.serving.endpoints.domain import app_name
from foundry.serving.endpoints.repository import EndpointRows
from foundry.serving.endpoints.serving_rank import ServingRank, find_rank
from foundry.serving.endpoints.tables import Endpoint


class Creating:
    """Makes endpoints of the principal's project."""

    def __init__(
        self,
        rows: EndpointRows,
        audit: AuditTrail,
        principal: Principal,
        registry: Registry,
        check: EngineCheck,
        serving: ServingSettings,
    ) -> None:
        self._rows = rows
        self._audit = audit
        self._principal = principal
        self._registry = registry
        self._check = check
        self._serving = serving

    async def create(
        self, model: str, name: str | None, config: dict[str, object]
    ) -> Answer[Endpoint]:
        """See `Endpoints.create`."""
        version = await self._registry.resolve(model)
        base = await self._registry.hold(
            version.base_version_id
            if version.kind == "adapter" and version.base_version_id is not None
            else version.id
        )
        await self._rows.lock_base(base.digest)
        named = await self._rows.find_by_name(name) if name is not None else None
        subject = f"the rank of {version.reference}"
        existing = named if name is not None else await self._rows.find_of_version(base.id)
        if existing is not None and existing.model_version_id == base.id:
            _check_same_options(existing, config, self._serving.model_dump())
            served = find_rank(existing, self._serving.max_lora_rank)
            served.check_adapter(subject, version.lora_rank, base, "model")
            return Answer(
                existing, f"the endpoint {existing.name} exists already; it is {existing.state}"
            )
        await self._check.check(self._registry, base, config, anywhere=True)
        rank = cast(int, config.get("max_lora_rank", self._serving.max_lora_rank))
        served = ServingRank(rank, name=name)
        served.check_adapter(subject, version.lora_rank, base, "config.max_lora_rank")
        return Answer(await self._add(base, name, config))

    async def _add(
        self, base: ModelVersion, name: str | None, config: dict[str, object]
    ) -> Endpoint:
        endpoint = Endpoint(
            tenant_id=self._principal.tenant_id,
            project_id=self._principal.project_id,
            name=await self._free_name(name, base),
            model_version_id=base.id,
            model_reference=base.reference,
            base_digest=base.digest,
            app_name=app_name(base.digest, 0),
            config=config,
            created_by=self._principal.subject,
        )
        await self._rows.add(endpoint)
        after: dict[str, object] = {"name": endpoint.name, "model": base.reference}
        await self._audit.record("endpoint.create", "endpoint", str(endpoint.id), after=after)
        return endpoint

    async def _free_name(self, wanted: str | None, base: ModelVersion) -> str:
        candidates = [wanted] if wanted else [base.name, f"{base.name}-{base.version}"[:128]]
        for candidate in candidates:
            if await self._rows.find_by_name(candidate) is None:
                return candidate
        raise Conflict(
            f"an endpoint is called {candidates[0]} already: choose another name", param="name"
        )


def _check_same_options(
    existing: Endpoint, wanted: Mapping[str, object], defaults: Mapping[str, object]
) -> None:
    """Refuse options that an endpoint, which keeps its own, would ignore. Raises Conflict.

    Args:
        defaults: of the server, which an option that is unset follows.
    """
    options = next_options(existing)
    effective = {**defaults, **options}
    others = {name: value for name, value in wanted.items() if effective.get(name) != value}
    if not others:
        return
    differ = ", ".join(
        f"{name} {_write(options.get(name))} instead of {_write(value)}"
        for name, value in sorted(others.items())
    )
    raise Conflict(
        f"the endpoint {existing.name} exists already, with {differ}: "
        f"{describe_change(existing, others)} change that",
        param=f"config.{min(others)}",
    )


def _write(value: object) -> str:
    if isinstance(value, str):
        return value
    return "unset" if value is None else json.dumps(value, sort_keys=True)
