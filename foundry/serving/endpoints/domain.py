"""Desired and observed states of an endpoint and of its revisions.

An endpoint says what is wanted and where requests go; each of its revisions is one engine
application with a configuration of its own. The endpoint's state follows from its revisions:

    nothing serves           the target's state:  PENDING -> VALIDATING -> TRANSFERRING -> DEPLOYING
                                                  -> VERIFYING, or FAILED
    the target serves        RUNNING <-> DEGRADED
    another revision serves  UPDATING -> RUNNING, on the new revision or, if that failed, on the old

A revision:

    PENDING -> VALIDATING -> TRANSFERRING -> DEPLOYING -> VERIFYING -> READY <-> DEGRADED
        each of these --late, refused, crash loop--> FAILED
        each of these --replaced, stopped--> DRAINING -> REMOVED
                                                         REMOVED -> PENDING (the successor failed)

DRAINING has two parts. Gateways first forget the route, unless the endpoint is stopped: then they
refuse already. Then the application is deleted, and requests that run go on until its deadline.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal
from uuid import UUID

Desired = Literal["running", "stopped", "deleted"]
RevisionDesired = Literal["running", "removed"]
# surge: the new engine starts beside the old one. recreate: the old one makes room first.
Strategy = Literal["surge", "recreate"]


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
    _S.PENDING: frozenset({_S.VALIDATING}),
    _S.VALIDATING: frozenset({_S.TRANSFERRING}),
    _S.TRANSFERRING: frozenset({_S.DEPLOYING}),
    _S.DEPLOYING: frozenset({_S.VERIFYING}),
    # Back: the application vanished before it was switched to.
    _S.VERIFYING: frozenset({_S.RUNNING, _S.DEPLOYING}),
    _S.RUNNING: frozenset({_S.DEGRADED, _S.UPDATING, _S.PENDING}),
    _S.DEGRADED: frozenset({_S.RUNNING, _S.UPDATING, _S.PENDING}),
    # Into starting: what served was lost, or made room, while the new revision is on its way.
    _S.UPDATING: frozenset({_S.RUNNING, _S.DEGRADED}) | STARTING,
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


def states_before(target: EndpointState) -> frozenset[EndpointState]:
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)


class RevisionState(StrEnum):
    PENDING = "PENDING"
    VALIDATING = "VALIDATING"
    TRANSFERRING = "TRANSFERRING"
    DEPLOYING = "DEPLOYING"
    VERIFYING = "VERIFYING"
    READY = "READY"
    DEGRADED = "DEGRADED"
    DRAINING = "DRAINING"
    REMOVED = "REMOVED"
    FAILED = "FAILED"


# The specification's minutes of PENDING: a place may come free, nodes may join.
PENDING_S = 900.0
# How long a crash counts, and how many in that time make a crash loop.
CRASH_WINDOW_S = 600.0
MAX_CRASHES = 3
# Gateways cut every answer off after this, so an engine that is replaced owes nobody more.
LONGEST_ANSWER_S = 900.0
# A revision in one of these is not wanted any more.
ENDED = frozenset({RevisionState.DRAINING, RevisionState.REMOVED, RevisionState.FAILED})
APP_PREFIX = "engine-"
# 96 bits: two bases never share a name by accident.
_DIGEST_DIGITS = 24


def app_name(base_digest: str, number: int) -> str:
    """The Serve application of one revision; numbers are unique among all revisions of a base."""
    return f"{APP_PREFIX}{base_digest[:_DIGEST_DIGITS]}-r{number}"


def deploy_command(name: str, model_reference: str) -> str:
    """How a shell asks for one endpoint to run, and for no other of the same base.

    Args:
        name: the endpoint's.
        model_reference: the base's `name@version`.
    """
    named = "" if name == model_reference.partition("@")[0] else f" --name {name}"
    return f"foundry deploy {model_reference}{named}"


def config_digest(base_digest: str, config: Mapping[str, object]) -> str:
    """Sha256 of canonical JSON of what an engine is made of, hex."""
    canonical = json.dumps(
        {"base": base_digest, "config": dict(config)}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class OptionChange:
    """One option of two configurations; None is unset."""

    field: str
    before: object
    after: object


@dataclass(frozen=True, slots=True)
class RevisionDiff:
    """How revision `after` is configured differently from `before`."""

    before: int
    after: int
    changes: tuple[OptionChange, ...]

    @classmethod
    def of(
        cls, before: int, after: int, old: Mapping[str, object], new: Mapping[str, object]
    ) -> "RevisionDiff":
        changes = (
            OptionChange(name, old.get(name), new.get(name))
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        )
        return cls(before, after, tuple(changes))


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
class RevisionSnapshot:
    """One revision as plain values.

    Attributes:
        replicas: wanted; changed in place by scaling.
        applied_replicas: that the engine application was last deployed with; None: not deployed.
        strategy: decided when it was validated.
        overdue: its deadline has passed by the database's clock.
        crashes: in the current window of ten minutes.
    """

    number: int
    app_name: str
    config: dict[str, object]
    config_digest: str
    replicas: int = 1
    applied_replicas: int | None = None
    desired: RevisionDesired = "running"
    state: RevisionState = RevisionState.PENDING
    strategy: Strategy | None = None
    reason: str | None = None
    progress: dict[str, object] = field(default_factory=dict)
    overdue: bool = False
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class EndpointSnapshot:
    """What the supervisor needs of one endpoint: plain values, safe to keep and to send.

    Attributes:
        version: counts the writes; a change is recorded only if it is still the same.
        config: of the revision that requests reach, or will reach first.
        serving: the revision that requests reach; None: none.
        target: the revision that is wanted.
        fallback: the revision that made room for the target and returns if that fails.
        revisions: those that are wanted or whose application may still exist, oldest first.
    """

    id: UUID
    tenant_id: UUID
    project_id: UUID
    name: str
    model_version_id: UUID
    desired: Desired
    state: EndpointState
    app_name: str
    config: dict[str, object]
    config_generation: int
    version: int = 0
    serving: int | None = None
    target: int | None = None
    fallback: int | None = None
    last_error: str | None = None
    revisions: tuple[RevisionSnapshot, ...] = ()

    @property
    def revision(self) -> int:
        """That requests reach, or will reach first; 0: it was never deployed."""
        return self.serving or self.target or 0

    @property
    def wish(self) -> tuple[object, ...]:
        """What its owner asks for: compared to see that they have asked for something else."""
        target = self.find_revision(self.target)
        # A stop whose time is over, as by `now`, is another one than one that waits.
        cut_off = self.desired != "running" and any(each.overdue for each in self.revisions)
        return (self.desired, self.target, target.replicas if target else 0, cut_off)

    def find_revision(self, number: int | None) -> RevisionSnapshot | None:
        return next((each for each in self.revisions if each.number == number), None)


@dataclass(frozen=True, slots=True)
class RevisionChange:
    """What was seen of one revision.

    Attributes:
        allowed_s: the state's new deadline, from now by the database's clock; None: none.
        keep_deadline: leave the deadline as it is.
        crashed: count a crash.
    """

    number: int
    state: RevisionState
    reason: str | None = None
    allowed_s: float | None = None
    keep_deadline: bool = False
    crashed: bool = False
    strategy: Strategy | None = None
    applied_replicas: int | None = None
    progress: dict[str, object] = field(default_factory=dict)

    @property
    def desired(self) -> RevisionDesired:
        return "removed" if self.state in ENDED else "running"


@dataclass(frozen=True, slots=True)
class EndpointChange:
    """What an endpoint and some of its revisions become, in one transaction."""

    state: EndpointState
    serving: int | None
    target: int | None
    fallback: int | None
    last_error: str | None
    revisions: tuple[RevisionChange, ...] = ()
