"""What the supervisor does next for an endpoint: a pure function of rows and observations.

The order is what protects a running engine:

    surge     validate -> transfer -> deploy new -> verify -> switch routes -> drain -> delete old
    recreate  validate -> transfer -> close routes -> drain -> delete old -> deploy new -> verify
              -> switch routes; if the new one fails, the old revision is started again

A revision that fails is removed; what served goes on serving. A scale that is refused leaves the
engine as it is, says so and is tried again. While one replica of what serves takes requests,
nothing that the others do is more than degraded. Each step is one effect on the
cluster that may be repeated, then one change of rows: a crash between the two repeats the effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from foundry.serving.endpoints.domain import (
    ENDED,
    Change,
    EndpointSnapshot,
    EndpointState,
    RevisionChange,
    RevisionSnapshot,
    RevisionState,
)
from foundry.supervisor.ports import ABSENT, EngineObservation, Transfer, Validation

_E = EndpointState
_R = RevisionState

# Minutes of the specification. A place may come free, nodes may join.
PENDING_S = 900.0
# Without progress: a transfer of any size may take as long as it moves.
TRANSFERRING_S = 300.0
VERIFYING_S = 300.0
# Gateways remember a route for a second. Running requests are then ended by the replicas' own
# graceful shutdown, so this only has to outlast the memory.
DRAIN_S = 3.0
# An application that is being deleted has its graceful shutdown (900 s) and some.
ROOM_S = 960.0
# Crashes within ten minutes that make a crash loop.
MAX_CRASHES = 3
# Opens an endpoint's error; gone with its cause, which no other error's is.
_NOT_SCALED = "it was not scaled: "


class Effect(StrEnum):
    VALIDATE = "validate"
    TRANSFER = "transfer"
    DEPLOY = "deploy"
    VERIFY = "verify"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Step:
    """One effect on a revision's application, then one change.

    Attributes:
        effect: None: only the change.
        change: recorded after the effect; None: the effect's result decides, or nothing changes.
    """

    number: int
    effect: Effect | None = None
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Attributes: engine_start_s: how long an engine may take until it is ready."""

    engine_start_s: float


def decide(
    endpoint: EndpointSnapshot, seen: Mapping[str, EngineObservation], limits: Limits
) -> Step | None:
    """The next step; None: wait."""
    if (step := _tidy(endpoint, seen)) is not None:
        return step
    if endpoint.desired != "running":
        return _rest(endpoint, seen)
    target = endpoint.numbered(endpoint.target)
    if target is None or target.state in ENDED:
        return None
    serving = endpoint.numbered(endpoint.serving)
    if serving is not None and (step := _keep(endpoint, serving, seen, limits)) is not None:
        return step
    if endpoint.serving == endpoint.target:
        return None
    return _advance(endpoint, target, seen, limits)


def after_validation(
    endpoint: EndpointSnapshot, revision: RevisionSnapshot, found: Validation
) -> Change | None:
    """A wrong option fails at once; what is only missing may come until the deadline."""
    if found.reasons:
        return fail(endpoint, revision, "; ".join(found.reasons))
    if found.missing:
        reason = "; ".join(found.missing)
        if revision.reason == reason:
            return None
        waiting = _revised(
            revision, revision.state, reason=reason, keep_deadline=True, progress=_says(reason)
        )
        return _change(endpoint, waiting)
    ahead = _revised(revision, _R.TRANSFERRING, allowed_s=TRANSFERRING_S, strategy=found.strategy)
    return _change(endpoint, ahead)


def after_transfer(
    endpoint: EndpointSnapshot, revision: RevisionSnapshot, found: Transfer
) -> Change | None:
    """Progress moves the deadline; the end of it may first make room."""
    if not found.done:
        before = revision.progress.get("bytes_done", -1)
        if isinstance(before, int) and found.bytes_done <= before:
            return None
        progress: dict[str, object] = {
            "phase": "transferring",
            "bytes_done": found.bytes_done,
            "bytes_total": found.bytes_total,
        }
        moved = _revised(revision, revision.state, allowed_s=TRANSFERRING_S, progress=progress)
        return _change(endpoint, moved)
    ahead = _revised(revision, _R.DEPLOYING, allowed_s=ROOM_S, applied_replicas=None)
    serving = endpoint.numbered(endpoint.serving)
    if serving is None or revision.strategy == "surge":
        return _change(endpoint, ahead)
    draining = _revised(serving, _R.DRAINING, allowed_s=DRAIN_S)
    return _change(endpoint, ahead, draining, serving=None, fallback=serving.number)


def after_verification(endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> Change:
    """The switch: from this change on, requests go to the revision."""
    changes = [_revised(revision, _R.READY)]
    old = endpoint.numbered(endpoint.serving)
    if old is not None and old.number != revision.number:
        changes.append(_revised(old, _R.DRAINING, allowed_s=DRAIN_S))
    return _change(endpoint, *changes, serving=revision.number, fallback=None)


def fail(endpoint: EndpointSnapshot, revision: RevisionSnapshot, reason: str) -> Change:
    """A revision that failed holds nothing, and takes nothing with it."""
    failed = _revised(revision, _R.FAILED, reason=reason)
    if endpoint.serving is not None and endpoint.serving != revision.number:
        said = f"revision {revision.number} failed: {reason}; revision {endpoint.serving} serves on"
        return _change(endpoint, failed, target=endpoint.serving, last_error=said)
    fallback = endpoint.numbered(endpoint.fallback)
    if fallback is not None and fallback.number != revision.number:
        back = _revised(fallback, _R.PENDING, allowed_s=PENDING_S, applied_replicas=None)
        said = f"revision {revision.number} failed: {reason}; revision {fallback.number} returns"
        return _change(
            endpoint, failed, back, serving=None, target=fallback.number, fallback=None,
            last_error=said,
        )  # fmt: skip
    # Where what served died while its successor is on its way, that goes on.
    return _change(endpoint, failed, serving=None, fallback=None, last_error=reason)


def refuse_scale(endpoint: EndpointSnapshot, reason: str) -> Change | None:
    """The engine serves on as it is; the difference of replicas makes the supervisor try again."""
    said = _NOT_SCALED + reason
    return _change(endpoint, last_error=said) if said != endpoint.last_error else None


def _tidy(endpoint: EndpointSnapshot, seen: Mapping[str, EngineObservation]) -> Step | None:
    """Remove what is not wanted any more."""
    for each in endpoint.revisions:
        if each.desired == "running" or (each.state is _R.DRAINING and not each.overdue):
            continue
        status = seen.get(each.app_name, ABSENT).status
        if status not in ("absent", "deleting"):
            return Step(each.number, Effect.DELETE)
        if status == "absent" and each.state not in (_R.REMOVED, _R.FAILED):
            removed = _revised(each, _R.REMOVED, reason=each.reason)
            return Step(each.number, change=_change(endpoint, removed))
    return None


def _rest(endpoint: EndpointSnapshot, seen: Mapping[str, EngineObservation]) -> Step | None:
    """Stopped or deleted once nothing of it is left."""
    if any(seen.get(each.app_name, ABSENT) != ABSENT for each in endpoint.revisions):
        return None
    if any(each.state not in (_R.REMOVED, _R.FAILED) for each in endpoint.revisions):
        return None
    rests = _E.DELETED if endpoint.desired == "deleted" else _E.STOPPED
    change = Change(rests, None, endpoint.target, None, endpoint.last_error)
    return Step(endpoint.target or 0, change=change)


def _keep(
    endpoint: EndpointSnapshot,
    serving: RevisionSnapshot,
    seen: Mapping[str, EngineObservation],
    limits: Limits,
) -> Step | None:
    """Compare the revision that serves with its engine."""
    engine = seen.get(serving.app_name, ABSENT)
    change: Change | None = None
    if engine.status in ("absent", "deleting"):
        change = _lost(endpoint, serving)
    elif engine.status == "failed" and engine.ready == 0:
        change = fail(endpoint, serving, f"the engine did not start: {engine.message}")
    elif engine.status == "running":
        if serving.state is not _R.READY:
            change = _change(endpoint, _revised(serving, _R.READY), last_error=None)
        else:
            return _scale(endpoint, serving)
    elif serving.state is _R.READY:
        change = _degraded(endpoint, serving, engine, limits)
    elif serving.overdue and engine.ready == 0:
        change = fail(
            endpoint, serving, "the engine did not recover in time: see `foundry logs serve`"
        )
    else:
        return _scale(endpoint, serving)
    return Step(serving.number, change=change) if change is not None else None


def _scale(endpoint: EndpointSnapshot, serving: RevisionSnapshot) -> Step | None:
    """Bring the engine to the wanted replicas; None: it has them, or its successor comes first."""
    refused = (endpoint.last_error or "").startswith(_NOT_SCALED)
    if serving.applied_replicas == serving.replicas:
        cleared = Step(serving.number, change=_change(endpoint, last_error=None))
        return cleared if refused else None
    if refused and endpoint.target != serving.number:
        return None
    applied = _revised(
        serving, serving.state, keep_deadline=True, applied_replicas=serving.replicas
    )
    return Step(serving.number, Effect.DEPLOY, _change(endpoint, applied))


def _lost(endpoint: EndpointSnapshot, serving: RevisionSnapshot) -> Change:
    """Its application is gone, as after the loss of the cluster: it is built again from its row."""
    if endpoint.target == serving.number:
        again = _revised(serving, _R.PENDING, allowed_s=PENDING_S, applied_replicas=None)
        return _change(endpoint, again, serving=None, last_error=None)
    removed = _revised(serving, _R.REMOVED, reason="its application was lost")
    return _change(endpoint, removed, serving=None, fallback=serving.number)


def _degraded(
    endpoint: EndpointSnapshot,
    serving: RevisionSnapshot,
    engine: EngineObservation,
    limits: Limits,
) -> Change:
    crashed = engine.status == "unhealthy"
    if crashed and engine.ready == 0 and serving.crashes + 1 >= MAX_CRASHES:
        return fail(
            endpoint, serving, f"it crashed {MAX_CRASHES} times in ten minutes: {engine.message}"
        )
    reason = engine.message or "the engine restarts"
    degraded = _revised(
        serving, _R.DEGRADED, reason=reason, allowed_s=limits.engine_start_s, crashed=crashed
    )
    return _change(endpoint, degraded, last_error=reason)


def _advance(
    endpoint: EndpointSnapshot,
    target: RevisionSnapshot,
    seen: Mapping[str, EngineObservation],
    limits: Limits,
) -> Step | None:
    """One step of the target on its way to serve."""
    number = target.number
    if target.overdue:
        return Step(number, change=fail(endpoint, target, _late(target, limits)))
    if target.state is _R.PENDING:
        ahead = _revised(target, _R.VALIDATING, keep_deadline=True)
        return Step(number, change=_change(endpoint, ahead))
    if target.state is _R.VALIDATING:
        return Step(number, Effect.VALIDATE)
    if target.state is _R.TRANSFERRING:
        return Step(number, Effect.TRANSFER)
    engine = seen.get(target.app_name, ABSENT)
    if engine.status == "failed":
        reason = f"the engine did not start: {engine.message}"
        return Step(number, change=fail(endpoint, target, reason))
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
            return Step(number, change=fail(endpoint, target, reason))
        begun = _revised(
            target,
            _R.DEPLOYING,
            allowed_s=limits.engine_start_s,
            crashed=vanished,
            applied_replicas=target.replicas,
        )
        return Step(number, Effect.DEPLOY, _change(endpoint, begun))
    if engine.status == "running":
        begun = _revised(target, _R.VERIFYING, allowed_s=VERIFYING_S)
        return Step(number, change=_change(endpoint, begun))
    if engine.message and engine.message != target.reason:
        waiting = _revised(
            target, target.state, reason=engine.message, keep_deadline=True,
            progress=_says(engine.message),
        )  # fmt: skip
        return Step(number, change=_change(endpoint, waiting))
    return None


def _prove(
    endpoint: EndpointSnapshot, target: RevisionSnapshot, engine: EngineObservation
) -> Step | None:
    if engine.status == "running":
        return Step(target.number, Effect.VERIFY)
    if engine.status == "absent":
        again = _revised(target, _R.DEPLOYING, allowed_s=ROOM_S)
        return Step(target.number, change=_change(endpoint, again))
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


def _says(message: str) -> dict[str, object]:
    return {"message": message}


def _revised(revision: RevisionSnapshot, state: RevisionState, **values: object) -> RevisionChange:
    """Of `revision`; what is not named is cleared with its old state."""
    values.setdefault("applied_replicas", revision.applied_replicas)
    return replace(RevisionChange(revision.number, state), **values)  # type: ignore[arg-type]


def _change(endpoint: EndpointSnapshot, *revisions: RevisionChange, **values: object) -> Change:
    """The endpoint with some revisions changed; its own state follows from theirs."""
    kept = Change(
        endpoint.state,
        endpoint.serving,
        endpoint.target,
        endpoint.fallback,
        endpoint.last_error,
        revisions,
    )
    change = replace(kept, **values)  # type: ignore[arg-type]
    return replace(change, state=_state(endpoint, change))


def _state(endpoint: EndpointSnapshot, change: Change) -> EndpointState:
    states = {each.number: each.state for each in endpoint.revisions}
    states |= {each.number: each.state for each in change.revisions}
    if endpoint.desired != "running" or change.target is None:
        return endpoint.state
    if change.serving is None:
        return _E(states[change.target])
    if change.serving != change.target:
        return _E.UPDATING
    return _E.RUNNING if states[change.serving] is _R.READY else _E.DEGRADED
