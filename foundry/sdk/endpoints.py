"""Endpoints: which bases are served, and which should be."""

from collections.abc import Callable, Mapping
from uuid import UUID

from foundry.sdk._lookup import Kind, build_lookup
from foundry.sdk._transport import (
    AsyncSender,
    Call,
    Resource,
    S_co,
    SyncSender,
    operation,
    pages,
    path,
)
from foundry.sdk._waiting import POLL_S, Patience, until, until_async
from foundry.sdk.paging import Page
from foundry.serving.endpoints.schemas import (
    RESTING,
    EndpointConfigure,
    EndpointCreate,
    EndpointOut,
    EndpointRollback,
    EndpointScale,
    EndpointState,
    EngineConfig,
    RevisionDiffOut,
    RevisionOut,
)

_SETTLED = RESTING | {EndpointState.RUNNING, EndpointState.DEGRADED, EndpointState.FAILED}

_ENDPOINT = Kind(
    noun="endpoint",
    route=("endpoints",),
    page=Page[EndpointOut],
    row=EndpointOut,
    name_of=lambda endpoint: endpoint.name,
    listing="foundry endpoints list",
)


class Endpoints(Resource[S_co]):
    @operation("endpoints_create")
    def create(
        self,
        model: str,
        *,
        name: str | None = None,
        config: EngineConfig | None = None,
        deploy: bool = False,
    ) -> Call[EndpointOut]:
        """The endpoint of a model's base, made if there is none; `deploy` also starts it."""
        body = EndpointCreate(
            model=model, name=name, config=config or EngineConfig(), deploy=deploy
        )
        return Call("POST", path("endpoints"), EndpointOut, body=body)

    @pages("endpoints_list")
    def list(
        self, *, ref: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> Call[Page[EndpointOut]]:
        """One page. Args: ref: only the one of this name, or those whose id begins so."""
        query = {"ref": ref, "cursor": cursor, "limit": limit}
        return Call("GET", path("endpoints"), Page[EndpointOut], query)

    @operation("endpoints_get")
    def get(self, endpoint_id: UUID | str) -> Call[EndpointOut]:
        """One endpoint.

        Args:
            endpoint_id: its id, a beginning of the id (8 characters), or its name.
        Raises NotFound: nothing is called so. Raises Conflict: several ids begin so.
        """
        return build_lookup(_ENDPOINT, endpoint_id)

    @operation("endpoints_configure")
    def configure(
        self, endpoint_id: UUID | str, config: EndpointConfigure | Mapping[str, object]
    ) -> Call[EndpointOut]:
        """Store how the next deploy is to serve it.

        Args:
            config: a configuration, or targets from which one is found: then look at
                `recommendation_id` of the answer before you deploy.
        """
        body = EndpointConfigure.model_validate(config)
        return Call("PUT", path("endpoints", endpoint_id, "config"), EndpointOut, body=body)

    @operation("endpoints_deploy")
    def deploy(
        self, endpoint_id: UUID | str, *, recommendation_id: UUID | str | None = None
    ) -> Call[EndpointOut]:
        """Ask for it to run, as it was configured last.

        Args:
            recommendation_id: the one that was reviewed; if another is stored, Conflict.
        """
        query = {"recommendation_id": str(recommendation_id) if recommendation_id else None}
        return Call("POST", path("endpoints", endpoint_id, "deploy"), EndpointOut, query)

    @operation("endpoints_scale")
    def scale(self, endpoint_id: UUID | str, replicas: int) -> Call[EndpointOut]:
        """Ask for so many replicas, now and from the next deploy on."""
        body = EndpointScale(replicas=replicas)
        return Call("POST", path("endpoints", endpoint_id, "scale"), EndpointOut, body=body)

    @operation("endpoints_rollback")
    def rollback(self, endpoint_id: UUID | str, revision: int) -> Call[EndpointOut]:
        """Ask for the configuration of an earlier revision to run again."""
        body = EndpointRollback(revision=revision)
        return Call("POST", path("endpoints", endpoint_id, "rollback"), EndpointOut, body=body)

    @pages("endpoints_revisions")
    def revisions(
        self, endpoint_id: UUID | str, *, cursor: str | None = None, limit: int = 50
    ) -> Call[Page[RevisionOut]]:
        """What it was configured like, newest first."""
        query = {"cursor": cursor, "limit": limit}
        return Call("GET", path("endpoints", endpoint_id, "revisions"), Page[RevisionOut], query)

    @operation("endpoints_diff")
    def diff(self, endpoint_id: UUID | str, before: int, after: int) -> Call[RevisionDiffOut]:
        """Options in which two revisions differ."""
        where = path("endpoints", endpoint_id, "revisions", str(before), "diff", str(after))
        return Call("GET", where, RevisionDiffOut)

    @operation("endpoints_stop")
    def stop(self, endpoint_id: UUID | str, *, now: bool = False) -> Call[EndpointOut]:
        """Ask for it to drain and stop.

        Args:
            now: cut running requests off, also those of a stop that is under way.
        """
        query = {"now": str(now).lower()}
        return Call("POST", path("endpoints", endpoint_id, "stop"), EndpointOut, query)

    @operation("endpoints_delete")
    def delete(self, endpoint_id: UUID | str, *, now: bool = False) -> Call[EndpointOut]:
        """Ask for it to stop and be forgotten. Args: now: as of `stop`."""
        query = {"now": str(now).lower()}
        return Call("DELETE", path("endpoints", endpoint_id), EndpointOut, query)


def _has_settled(endpoint: EndpointOut) -> bool:
    return endpoint.state in _SETTLED


class SyncEndpoints(Endpoints[SyncSender]):
    def wait(
        self,
        endpoint_id: UUID | str,
        on_update: Callable[[EndpointOut], None] | None = None,
        *,
        poll_s: float = POLL_S,
        timeout_s: float | None = None,
    ) -> EndpointOut:
        """The endpoint once it runs, rests or has failed; one that is gone as it was last seen.

        Raises DeadlineExceeded: `timeout_s` have passed.
        """
        patience = Patience(f"endpoint {endpoint_id}", timeout_s)
        return until(
            self.get, endpoint_id, _has_settled, on_update, patience, poll_s, gone_ends=True
        )


class AsyncEndpoints(Endpoints[AsyncSender]):
    async def wait(
        self,
        endpoint_id: UUID | str,
        on_update: Callable[[EndpointOut], None] | None = None,
        *,
        poll_s: float = POLL_S,
        timeout_s: float | None = None,
    ) -> EndpointOut:
        """Wait until an endpoint runs, rests or has failed; see `SyncEndpoints.wait`."""
        patience = Patience(f"endpoint {endpoint_id}", timeout_s)
        return await until_async(
            self.get, endpoint_id, _has_settled, on_update, patience, poll_s, gone_ends=True
        )
