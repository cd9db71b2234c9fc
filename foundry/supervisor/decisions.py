"""What the supervisor does next for an endpoint: a pure function of rows and observations.

The order is what protects a running engine:

    surge     validate -> transfer -> deploy new -> verify -> switch routes -> drain -> delete old
    recreate  validate -> transfer -> close routes -> drain -> delete old -> deploy new -> verify
              -> switch routes; if the new one fails, the old revision is started again

A stop deletes the engines at once, for no gateway sends requests to them any more. Requests that
run go on until the deadline of their revision; then, or when the owner says so, they are cut off.
A revision that fails is removed; what served goes on serving. A scale that is refused leaves the
engine as it is, says so and is tried again. While one replica of what serves takes requests,
nothing that the others do is more than degraded. Each step is one effect on the
cluster that may be repeated, then one change of rows: a crash between the two repeats the effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from foundry.serving.endpoints.domain import (
    CRASH_WINDOW_S,
    ENDED,
    LONGEST_ANSWER_S,
    MAX_CRASHES,
    PENDING_S,
    EndpointChange,
    EndpointSnapshot,
    EndpointState,
    RevisionSnapshot,
    RevisionState,
)
from foundry.supervisor.changes import (
    ROOM_S,
    TRANSFERRING_S,
    VERIFYING_S,
    begin_drain,
    change_endpoint,
    cut_off,
    fail_revision,
    is_draining,
    progress_message,
    remove_revision,
    revise,
    was_refused_scale,
)
from foundry.supervisor.ports import ABSENT, EngineObservation, EngineStatus

_E = EndpointState
_R = RevisionState


class Effect(StrEnum):
    VALIDATE = "validate"
    TRANSFER = "transfer"
    DEPLOY = "deploy"
    VERIFY = "verify"
    DELETE = "delete"
    # Without waiting for the requests that run.
    DELETE_NOW = "delete_now"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Step:
    """One effect on a revision's application, then one change.

    Attributes:
        effect: None: only the change.
        change: recorded after the effect; None: the effect's result decides, or nothing changes.
    """

    number: int
    effect: Effect | None = None
    change: EndpointChange | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things may take that the settings decide.

    Attributes:
        engine_start_s: an engine, until it is ready.
        stop_drain_s: requests that run when their endpoint is stopped.
    """

    engine_start_s: float
    stop_drain_s: float


def choose_next_step(
    endpoint: EndpointSnapshot, seen: Mapping[str, EngineObservation], limits: Limits
) -> Step | None:
    """The next step; None: wait."""
    return (
        _remove_unwanted(endpoint, seen, limits)
        or _approach_wanted(endpoint, seen, limits)
        # Last: it only tells, and requests that drain hold nothing else up.
        or _count_draining(endpoint, seen)
    )


def _approach_wanted(
    endpoint: EndpointSnapshot, seen: Mapping[str, EngineObservation], limits: Limits
) -> Step | None:
    if endpoint.desired != "running":
        return _rest(endpoint, seen)
    target = endpoint.find_revision(endpoint.target)
    if target is None or target.state in ENDED:
        return None
    serving = endpoint.find_revision(endpoint.serving)
    if serving is not None and (step := _keep(endpoint, serving, seen, limits)) is not None:
        return step
    if endpoint.serving == endpoint.target:
        return None
    return _advance(endpoint, target, seen, limits)


def _remove_unwanted(
    endpoint: EndpointSnapshot, seen: Mapping[str, EngineObservation], limits: Limits
) -> Step | None:
    for each in endpoint.revisions:
        if each.desired != "running":
            status = seen.get(each.app_name, ABSENT).status
            if (step := _remove(endpoint, each, status, limits)) is not None:
                return step
    return None


def _remove(
    endpoint: EndpointSnapshot, each: RevisionSnapshot, status: EngineStatus, limits: Limits
) -> Step | None:
    """One step on a revision's way out; None: it is gone, or has time still."""
    gone = each.state in (_R.REMOVED, _R.FAILED)
    if status == "absent":
        return None if gone else Step(each.number, change=remove_revision(endpoint, each))
    if gone:
        # What failed answers nobody. One that hangs would keep its accelerators from others.
        return Step(each.number, Effect.DELETE_NOW) if status != "deleting" else None
    stops = endpoint.desired != "running"
    if each.overdue and (stops or is_draining(each)):
        return Step(each.number, Effect.DELETE_NOW, cut_off(endpoint, each))
    closing = each.state is _R.DRAINING and not each.overdue and not stops
    if is_draining(each) or closing:
        return None
    allowed_s = limits.stop_drain_s if stops else LONGEST_ANSWER_S
    return Step(each.number, Effect.DELETE, begin_drain(endpoint, each, allowed_s))


def _count_draining(
    endpoint: EndpointSnapshot, seen: Mapping[str, EngineObservation]
) -> Step | None:
    for each in endpoint.revisions:
        if is_draining(each) and each.app_name in seen:
            return Step(each.number, Effect.COUNT)
    return None


def _rest(endpoint: EndpointSnapshot, seen: Mapping[str, EngineObservation]) -> Step | None:
    """Stopped or deleted once nothing of it is left."""
    if any(seen.get(each.app_name, ABSENT) != ABSENT for each in endpoint.revisions):
        return None
    if any(each.state not in (_R.REMOVED, _R.FAILED) for each in endpoint.revisions):
        return None
    rests = _E.DELETED if endpoint.desired == "deleted" else _E.STOPPED
    change = EndpointChange(rests, None, endpoint.target, None, endpoint.last_error)
    return Step(endpoint.target or 0, change=change)


def _keep(
    endpoint: EndpointSnapshot,
    serving: RevisionSnapshot,
    seen: Mapping[str, EngineObservation],
    limits: Limits,
) -> Step | None:
    """Compare the revision that serves with its engine."""
    engine = seen.get(serving.app_name, ABSENT)
    change: EndpointChange | None = None
    if engine.status in ("absent", "deleting"):
        change = _lost(endpoint, serving)
    elif engine.status == "failed" and engine.ready == 0:
        change = fail_revision(endpoint, serving, f"the engine did not start: {engine.message}")
    elif engine.status == "running":
        if serving.state is not _R.READY:
            change = change_endpoint(endpoint, revise(serving, _R.READY), last_error=None)
        else:
            return _scale(endpoint, serving)
    elif serving.state is _R.READY:
        change = _degraded(endpoint, serving, engine, limits)
    elif serving.overdue and engine.ready == 0:
        change = fail_revision(
            endpoint, serving, "the engine did not recover in time: see `foundry logs serve`"
        )
    else:
        return _scale(endpoint, serving)
    return Step(serving.number, change=change) if change is not None else None


def _scale(endpoint: EndpointSnapshot, serving: RevisionSnapshot) -> Step | None:
    """Bring the engine to the wanted replicas; None: it has them, or its successor comes first."""
    refused = was_refused_scale(endpoint)
    if serving.applied_replicas == serving.replicas:
        cleared = Step(serving.number, change=change_endpoint(endpoint, last_error=None))
        return cleared if refused else None
    if refused and endpoint.target != serving.number:
        return None
    applied = revise(serving, serving.state, keep_deadline=True, applied_replicas=serving.replicas)
    return Step(serving.number, Effect.DEPLOY, change_endpoint(endpoint, applied))


def _lost(endpoint: EndpointSnapshot, serving: RevisionSnapshot) -> EndpointChange:
    """Its application is gone, as after the loss of the cluster: it is built again from its row."""
    if endpoint.target == serving.number:
        again = revise(serving, _R.PENDING, allowed_s=PENDING_S, applied_replicas=None)
        return change_endpoint(endpoint, again, serving=None, last_error=None)
    removed = revise(serving, _R.REMOVED, reason="its application was lost")
    return change_endpoint(endpoint, removed, serving=None, fallback=serving.number)


def _degraded(
    endpoint: EndpointSnapshot,
    serving: RevisionSnapshot,
    engine: EngineObservation,
    limits: Limits,
) -> EndpointChange:
    crashed = engine.status == "unhealthy"
    if crashed and engine.ready == 0 and serving.crashes + 1 >= MAX_CRASHES:
        minutes = CRASH_WINDOW_S / 60
        reason = f"it crashed {MAX_CRASHES} times in {minutes:.0f} minutes: {engine.message}"
        return fail_revision(endpoint, serving, reason)
    reason = engine.message or "the engine restarts"
    degraded = revise(
        serving, _R.DEGRADED, reason=reason, allowed_s=limits.engine_start_s, crashed=crashed
    )
    return change_endpoint(endpoint, degraded, last_error=reason)


def _advance(
    endpoint: EndpointSnapshot,
    target: RevisionSnapshot,
    seen: Mapping[str, EngineObservation],
    limits: Limits,
) -> Step | None:
    """One step of the target on its way to serve."""
    number = target.number
    if target.overdue:
        return Step(number, change=fail_revision(endpoint, target, _late(target, limits)))
    if target.state is _R.PENDING:
        ahead = revise(target, _R.VALIDATING, keep_deadline=True)
        return Step(number, change=change_endpoint(endpoint, ahead))
    if target.state is _R.VALIDATING:
        return Step(number, Effect.VALIDATE)
    if target.state is _R.TRANSFERRING:
        return Step(number, Effect.TRANSFER)
    engine = seen.get(target.app_name, ABSENT)
    if engine.status == "failed":
        reason = f"the engine did not start: {engine.message}"
        return Step(number, change=fail_revision(endpoint, target, reason))
    if target.state is _R.DEPLOYING:
        return _start(endpoint, target, engine, seen, limits)
    return _prove(endpoint, target, engine)


def _start(
    endpoint: EndpointSnapshot,
    target: RevisionSnapshot,
    engine: EngineObservation,
    seen: Mapping[str, EngineObservation],
    limits: Limits,
) -> Step | None:
    number = target.number
    if engine.status == "absent":
        if target.strategy == "recreate" and _occupied(endpoint, seen):
            return None
        vanished = target.applied_replicas is not None
        if vanished and target.crashes + 1 >= MAX_CRASHES:
            reason = "its application vanished again and again before it was ready"
            return Step(number, change=fail_revision(endpoint, target, reason))
        begun = revise(
            target,
            _R.DEPLOYING,
            allowed_s=limits.engine_start_s,
            crashed=vanished,
            applied_replicas=target.replicas,
        )
        return Step(number, Effect.DEPLOY, change_endpoint(endpoint, begun))
    if engine.status == "running":
        begun = revise(target, _R.VERIFYING, allowed_s=VERIFYING_S)
        return Step(number, change=change_endpoint(endpoint, begun))
    if engine.message and engine.message != target.reason:
        waiting = revise(
            target, target.state, reason=engine.message, keep_deadline=True,
            progress=progress_message(engine.message),
        )  # fmt: skip
        return Step(number, change=change_endpoint(endpoint, waiting))
    return None


def _prove(
    endpoint: EndpointSnapshot, target: RevisionSnapshot, engine: EngineObservation
) -> Step | None:
    if engine.status == "running":
        return Step(target.number, Effect.VERIFY)
    if engine.status == "absent":
        again = revise(target, _R.DEPLOYING, allowed_s=ROOM_S)
        return Step(target.number, change=change_endpoint(endpoint, again))
    return None


def _occupied(endpoint: EndpointSnapshot, seen: Mapping[str, EngineObservation]) -> bool:
    """Whether an application that makes room for the target is still there."""
    return any(
        each.desired == "removed"
        for each in endpoint.revisions
        if seen.get(each.app_name, ABSENT) != ABSENT
    )


def _late(target: RevisionSnapshot, limits: Limits) -> str:
    why = f" ({target.reason})" if target.reason else ""
    if target.state in (_R.PENDING, _R.VALIDATING):
        return f"it found no place within {PENDING_S / 60:.0f} minutes{why}"
    if target.state is _R.TRANSFERRING:
        return f"its model's files did not move for {TRANSFERRING_S / 60:.0f} minutes"
    if target.state is _R.VERIFYING:
        return f"it did not answer a test request within {VERIFYING_S / 60:.0f} minutes{why}"
    return (
        f"the engine was not ready after {limits.engine_start_s:.0f} s{why}: see `foundry logs "
        "serve`; raise FOUNDRY_SERVING__ENGINE_START_TIMEOUT_S if it only needs longer"
    )
