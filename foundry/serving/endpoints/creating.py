"""How a base gets its endpoint: one that is there already is found, and keeps its options."""

import json
from collections.abc import Mapping
from typing import cast

from foundry.catalog.registry.service import ModelVersion, Registry
from foundry.errors import Conflict, InvalidConfiguration
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.serving.endpoints.checking import EngineCheck
from foundry.serving.endpoints.configuring import describe_change, next_options
from foundry.serving.endpoints.domain import app_name
from foundry.serving.endpoints.repository import EndpointRows
from foundry.serving.endpoints.serving_rank import ServingRank, find_rank
from foundry.serving.endpoints.tables import Endpoint
from foundry.serving.engine.limits import next_lora_rank


class Creating:
    """Makes endpoints of the principal's project."""

    def __init__(
        self,
        rows: EndpointRows,
        audit: AuditTrail,
        principal: Principal,
        registry: Registry,
        check: EngineCheck,
    ) -> None:
        self._rows = rows
        self._audit = audit
        self._principal = principal
        self._registry = registry
        self._check = check

    async def create(
        self, model: str, name: str | None, config: dict[str, object]
    ) -> tuple[Endpoint, bool]:
        """See `Endpoints.create`."""
        version = await self._registry.resolve(model)
        base = await self._registry.hold(
            version.base_version_id
            if version.kind == "adapter" and version.base_version_id is not None
            else version.id
        )
        await self._rows.lock_base(base.digest)
        named = await self._rows.find_by_name(name) if name is not None else None
        existing = named if name is not None else await self._rows.find_of_version(base.id)
        if existing is not None and existing.model_version_id == base.id:
            _check_same_options(existing, config, self._check.serving.model_dump())
            _check_rank(version, find_rank(existing, self._check.serving.max_lora_rank))
            existing.note = f"the endpoint {existing.name} exists already; it is {existing.state}"
            return existing, False
        await self._check.check(self._registry, base, config, anywhere=True)
        rank = cast(int, config.get("max_lora_rank", self._check.serving.max_lora_rank))
        _check_rank(version, ServingRank(rank))
        return await self._add(base, name, config), True

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


def _check_rank(version: ModelVersion, served: ServingRank) -> None:
    """Refuse an adapter that the base's endpoint would refuse at its first request."""
    rank = version.lora_rank
    if version.kind != "adapter" or rank is None or rank <= served.rank:
        return
    told = f"{version.reference} has LoRA rank {rank}, and "
    wanted = next_lora_rank(rank)
    if wanted is None:
        raise InvalidConfiguration(f"{told}no engine serves such a rank: train one of a lower rank")
    if served.endpoint is None:
        raise InvalidConfiguration(
            f"{told}a new endpoint would serve up to {served.rank}: give it max_lora_rank "
            f"{wanted}, as `foundry deploy {version.reference} --max-lora-rank {wanted}` does",
            param="config.max_lora_rank",
        )
    raise Conflict(
        f"{told}the endpoint {served.endpoint.name} serves up to {served.rank}: "
        f"{describe_change(served.endpoint, {'max_lora_rank': wanted})} change that",
        max_lora_rank=served.rank,
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
