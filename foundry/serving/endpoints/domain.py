"""Desired and observed states of an endpoint."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
from uuid import UUID

Desired = Literal["running", "stopped", "deleted"]


class EndpointState(StrEnum):
    CREATED = "CREATED"
    CONFIGURED = "CONFIGURED"
    PENDING = "PENDING"
    VALIDATING = "VALIDATING"
    TRANSFERRING = "TRANSFERRING"
    DEPLOYING = "DEPLOYING"
    VERIFYING = "VERIFYING"
    RUNNING = "RUNNING"
    DEGRADED = "DEGRADED"
    UPDATING = "UPDATING"
    FAILED = "FAILED"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    DELETING = "DELETING"
    DELETED = "DELETED"


_S = EndpointState
STARTING = frozenset({_S.PENDING, _S.VALIDATING, _S.TRANSFERRING, _S.DEPLOYING, _S.VERIFYING})
# Requests may be sent.
SERVING = frozenset({_S.RUNNING, _S.DEGRADED, _S.UPDATING})
RESTING = frozenset({_S.CREATED, _S.CONFIGURED, _S.STOPPED, _S.DELETED})

_AHEAD: dict[EndpointState, frozenset[EndpointState]] = {
    _S.CREATED: frozenset({_S.CONFIGURED, _S.PENDING}),
    _S.CONFIGURED: frozenset({_S.PENDING}),
    _S.PENDING: frozenset({_S.VALIDATING, _S.DEPLOYING}),
    _S.VALIDATING: frozenset({_S.TRANSFERRING, _S.DEPLOYING}),
    _S.TRANSFERRING: frozenset({_S.DEPLOYING}),
    _S.DEPLOYING: frozenset({_S.VERIFYING}),
    _S.VERIFYING: frozenset({_S.RUNNING}),
    _S.RUNNING: frozenset({_S.DEGRADED, _S.UPDATING, _S.PENDING}),
    _S.DEGRADED: frozenset({_S.RUNNING, _S.UPDATING, _S.PENDING}),
    _S.UPDATING: frozenset({_S.RUNNING}),
    _S.FAILED: frozenset({_S.PENDING}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.DELETED}),
    _S.STOPPED: frozenset({_S.PENDING}),
    _S.DELETING: frozenset({_S.DELETED}),
    _S.DELETED: frozenset(),
}


def _with_exits(state: EndpointState) -> frozenset[EndpointState]:
    """Every state also leads to stopping, deleting and, while something runs, to failure."""
    ahead = _AHEAD[state]
    if state is _S.DELETED:
        return ahead
    if state is not _S.DELETING:
        ahead |= {_S.DELETING}
    if state not in RESTING | {_S.STOPPING, _S.DELETING}:
        ahead |= {_S.STOPPING}
    if state in STARTING | SERVING:
        # From every starting state back to PENDING: the cluster was lost and is built again.
        ahead |= {_S.FAILED, _S.PENDING}
    return ahead - {state}


TRANSITIONS: dict[EndpointState, frozenset[EndpointState]] = {
    state: _with_exits(state) for state in EndpointState
}


def sources(target: EndpointState) -> frozenset[EndpointState]:
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)


def app_name(base_digest: str, revision: int) -> str:
    """The Serve application of one revision of a base's engine."""
    return f"engine-{base_digest[:8]}-r{revision}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a request's model name means: resolved once, used for everything after.

    Attributes:
        reference: what the caller wrote; echoed as `model` in answers.
        adapter_uid: the engine's name of the adapter; None: the base itself.
        app_name: the Serve application that answers.
        context_length: tokens that the engine takes.
        revision: of the endpoint, which answers.
        variant: label of the branch of a split that was picked.
        provider: who runs the model: an engine of this cluster.
        route_version: of the routing table; 0 while endpoints are their own routes.
    """

    endpoint_id: UUID
    model_version_id: UUID
    model_name: str
    version: str
    adapter_uid: str | None
    base_version_id: UUID
    app_name: str
    context_length: int
    reference: str
    revision: int
    variant: str = "stable"
    provider: str = "engine"
    route_version: int = 0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One row of `GET /v1/models`.

    Attributes:
        created: Unix seconds.
        parent: the base's name, of an adapter.
        context_length: tokens that its engine takes, which may be fewer than the checkpoint's.
    """

    id: str
    created: int
    parent: str | None
    context_length: int


@dataclass(frozen=True, slots=True)
class EndpointSnapshot:
    """What the supervisor needs of one endpoint: plain values, safe to keep and to send.

    Attributes:
        previous_app_name: the engine that this revision replaces.
    """

    id: UUID
    tenant_id: UUID
    project_id: UUID
    name: str
    model_version_id: UUID
    desired: Desired
    state: EndpointState
    app_name: str
    revision: int
    config: dict[str, object]
    config_generation: int
    previous_app_name: str | None = None
