"""From the model name of a request to the engine that answers it."""

import time
from collections import OrderedDict
from collections.abc import Callable
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from foundry.catalog.registry.domain import adapter_uid
from foundry.catalog.registry.service import (
    ModelVersion,
    find_version,
    resolve_version,
    served_adapters,
)
from foundry.errors import InvalidRequest, ModelNotFound, NoHealthyUpstream
from foundry.governance.identity.domain import Principal
from foundry.infra.database import Database
from foundry.serving.endpoints.domain import SERVING, STARTING, ServedModel, Target
from foundry.serving.endpoints.repository import EndpointRows
from foundry.serving.endpoints.tables import Endpoint

_TTL_S = 1.0
_CAPACITY = 4096
_MAX_ENDPOINTS = 100
_MAX_MODELS = 1000


class Routing:
    """Names to targets, read from PostgreSQL and remembered for at most a second.

    Only answers are remembered: a model that was just deployed is found at once.

    Endpoints belong to a project and are read by tenant and project. The registry is the whole
    tenant's by design (`models` and `model_versions` have no project), so that a project can
    deploy what another has trained; its reads are by tenant.

    Args:
        max_model_len: the context with which engines start whose endpoint sets none.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_model_len: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._max_model_len = max_model_len
        self._clock = clock
        self._targets: OrderedDict[tuple[UUID, UUID, str], tuple[float, Target]] = OrderedDict()

    async def resolve(self, principal: Principal, model: str) -> Target:
        """Find the engine that answers for a name.

        Raises:
            ModelNotFound: there is no such model.
            NoHealthyUpstream: its base is not running.
        """
        key = (principal.tenant_id, principal.project_id, model)
        known = self._targets.get(key)
        if known is not None and known[0] > self._clock():
            return known[1]
        async with self._database.begin() as db:
            target = await _resolve(db, principal, model, self._max_model_len)
        self._targets[key] = (self._clock() + _TTL_S, target)
        self._targets.move_to_end(key)
        while len(self._targets) > _CAPACITY:
            self._targets.popitem(last=False)
        return target

    async def list_models(self, principal: Principal) -> list[ServedModel]:
        """What a request may name now: running bases and the adapters on them."""
        async with self._database.begin() as db:
            rows = EndpointRows(db, principal.tenant_id, principal.project_id)
            endpoints = await rows.list_serving(_MAX_ENDPOINTS)
            bases: dict[UUID, tuple[ModelVersion, int]] = {}
            models: dict[str, ServedModel] = {}
            for endpoint in endpoints:
                base = await find_version(db, principal.tenant_id, endpoint.model_version_id)
                if base is not None:
                    context = _served_context(base, endpoint, self._max_model_len)
                    bases[base.id] = (base, context)
                    models[endpoint.name] = _served(endpoint.name, base, None, context)
            adapters = await served_adapters(db, principal.tenant_id, list(bases), _MAX_MODELS)
        for adapter, alias in adapters:
            assert adapter.base_version_id is not None
            base, context = bases[adapter.base_version_id]
            names = [adapter.name] + ([f"{adapter.name}@{alias}"] if alias else [])
            for name in names:
                models.setdefault(name, _served(name, adapter, base.name, context))
        return [models[name] for name in sorted(models)][:_MAX_MODELS]


async def _resolve(
    db: AsyncSession, principal: Principal, model: str, max_model_len: int
) -> Target:
    rows = EndpointRows(db, principal.tenant_id, principal.project_id)
    version, endpoint = await _named_endpoint(db, rows, principal.tenant_id, model)
    if version is None:
        try:
            version = await resolve_version(db, principal.tenant_id, model)
        except InvalidRequest as error:
            # To an OpenAI client a name that cannot exist is a model that does not exist.
            raise ModelNotFound(
                f"the model {model[:320]!r} does not exist: {error.message}", param="model"
            ) from error
    base = version
    if version.base_version_id is not None and version.kind == "adapter":
        found = await find_version(db, principal.tenant_id, version.base_version_id)
        assert found is not None
        base = found
    endpoint = endpoint or await _endpoint_of(rows, principal, base)
    if endpoint is None or endpoint.state not in SERVING:
        raise _not_running(base, endpoint)
    return Target(
        endpoint_id=endpoint.id,
        model_version_id=version.id,
        model_name=version.name,
        version=version.version,
        adapter_uid=adapter_uid(base.digest, version.digest) if version is not base else None,
        base_version_id=base.id,
        app_name=endpoint.app_name,
        context_length=_served_context(base, endpoint, max_model_len),
        reference=model,
        revision=endpoint.revision,
    )


async def _endpoint_of(
    rows: EndpointRows, principal: Principal, base: ModelVersion
) -> Endpoint | None:
    """The base's endpoint in the caller's project; another project's serves only that one."""
    endpoint = await rows.find_of_version(base.id)
    return endpoint if endpoint and endpoint.project_id == principal.project_id else None


async def _named_endpoint(
    db: AsyncSession, rows: EndpointRows, tenant_id: UUID, model: str
) -> tuple[ModelVersion | None, Endpoint | None]:
    """A bare name is an endpoint's before it is a model's."""
    endpoint = await rows.find_by_name(model) if "@" not in model and "\0" not in model else None
    if endpoint is None:
        return None, None
    return await find_version(db, tenant_id, endpoint.model_version_id), endpoint


def _served_context(base: ModelVersion, endpoint: Endpoint, max_model_len: int) -> int:
    """Tokens that the engine takes: as configured, and never more than the checkpoint's."""
    configured = endpoint.config.get("max_model_len")
    limit = configured if isinstance(configured, int) else max_model_len
    return min(limit, base.context_length or limit)


def _served(name: str, version: ModelVersion, parent: str | None, context: int) -> ServedModel:
    return ServedModel(name, int(version.created_at.timestamp()), parent, context)


def _not_running(base: ModelVersion, endpoint: Endpoint | None) -> NoHealthyUpstream:
    if endpoint is not None and endpoint.state in STARTING:
        return NoHealthyUpstream(
            f"{base.reference} is starting ({endpoint.state}): retry in a moment"
        )
    if endpoint is not None and endpoint.last_error:
        return NoHealthyUpstream(
            f"{base.reference} is {endpoint.state}: {endpoint.last_error}; "
            f"`foundry deploy {base.name}` tries again"
        )
    return NoHealthyUpstream(
        f"{base.reference} is not running: `foundry deploy {base.name}` starts it"
    )
