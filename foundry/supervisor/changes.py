"""What becomes of the rows after a step: pure functions of rows and of what an effect found.

An endpoint's own state follows from those of its revisions.
"""

from dataclasses import replace

from foundry.serving.endpoints.domain import (
    EndpointChange,
    EndpointSnapshot,
    EndpointState,
    RevisionChange,
    RevisionSnapshot,
    RevisionState,
)
from foundry.supervisor.ports import Transfer, Validation

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
# Opens an endpoint's error; gone with its cause, which no other error's is.
_NOT_SCALED = "it was not scaled: "


def apply_validation(
    endpoint: EndpointSnapshot, revision: RevisionSnapshot, found: Validation
) -> EndpointChange | None:
    """A wrong option fails at once; what is only missing may come until the deadline."""
    if found.reasons:
        return fail_revision(endpoint, revision, "; ".join(found.reasons))
    if found.missing:
        reason = "; ".join(found.missing)
        if revision.reason == reason:
            return None
        waiting = revise(
            revision,
            revision.state,
            reason=reason,
            keep_deadline=True,
            progress=progress_message(reason),
        )
        return change_endpoint(endpoint, waiting)
    ahead = revise(revision, _R.TRANSFERRING, allowed_s=TRANSFERRING_S, strategy=found.strategy)
    return change_endpoint(endpoint, ahead)


def apply_transfer(
    endpoint: EndpointSnapshot, revision: RevisionSnapshot, found: Transfer
) -> EndpointChange | None:
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
        moved = revise(revision, revision.state, allowed_s=TRANSFERRING_S, progress=progress)
        return change_endpoint(endpoint, moved)
    ahead = revise(revision, _R.DEPLOYING, allowed_s=ROOM_S, applied_replicas=None)
    serving = endpoint.find_revision(endpoint.serving)
    if serving is None or revision.strategy == "surge":
        return change_endpoint(endpoint, ahead)
    draining = revise(serving, _R.DRAINING, allowed_s=DRAIN_S)
    return change_endpoint(endpoint, ahead, draining, serving=None, fallback=serving.number)


def switch_to_revision(endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> EndpointChange:
    """The switch: from this change on, requests go to the revision."""
    changes = [revise(revision, _R.READY)]
    old = endpoint.find_revision(endpoint.serving)
    if old is not None and old.number != revision.number:
        changes.append(revise(old, _R.DRAINING, allowed_s=DRAIN_S))
    return change_endpoint(endpoint, *changes, serving=revision.number, fallback=None)


def fail_revision(
    endpoint: EndpointSnapshot, revision: RevisionSnapshot, reason: str
) -> EndpointChange:
    """A revision that failed holds nothing, and takes nothing with it."""
    failed = revise(revision, _R.FAILED, reason=reason)
    if endpoint.serving is not None and endpoint.serving != revision.number:
        said = f"revision {revision.number} failed: {reason}; revision {endpoint.serving} serves on"
        return change_endpoint(endpoint, failed, target=endpoint.serving, last_error=said)
    fallback = endpoint.find_revision(endpoint.fallback)
    if fallback is not None and fallback.number != revision.number:
        back = revise(fallback, _R.PENDING, allowed_s=PENDING_S, applied_replicas=None)
        said = f"revision {revision.number} failed: {reason}; revision {fallback.number} returns"
        return change_endpoint(
            endpoint, failed, back, serving=None, target=fallback.number, fallback=None,
            last_error=said,
        )  # fmt: skip
    # Where what served died while its successor is on its way, that goes on.
    return change_endpoint(endpoint, failed, serving=None, fallback=None, last_error=reason)


def refuse_scale(endpoint: EndpointSnapshot, reason: str) -> EndpointChange | None:
    """The engine serves on as it is; the difference of replicas makes the supervisor try again."""
    said = _NOT_SCALED + reason
    return change_endpoint(endpoint, last_error=said) if said != endpoint.last_error else None


def was_refused_scale(endpoint: EndpointSnapshot) -> bool:
    return (endpoint.last_error or "").startswith(_NOT_SCALED)


def progress_message(message: str) -> dict[str, object]:
    return {"message": message}


def revise(revision: RevisionSnapshot, state: RevisionState, **values: object) -> RevisionChange:
    """Of `revision`; what is not named is cleared with its old state."""
    values.setdefault("applied_replicas", revision.applied_replicas)
    return replace(RevisionChange(revision.number, state), **values)  # type: ignore[arg-type]


def change_endpoint(
    endpoint: EndpointSnapshot, *revisions: RevisionChange, **values: object
) -> EndpointChange:
    """The endpoint with some revisions changed; its own state follows from theirs."""
    kept = EndpointChange(
        endpoint.state,
        endpoint.serving,
        endpoint.target,
        endpoint.fallback,
        endpoint.last_error,
        revisions,
    )
    change = replace(kept, **values)  # type: ignore[arg-type]
    return replace(change, state=_state(endpoint, change))


def _state(endpoint: EndpointSnapshot, change: EndpointChange) -> EndpointState:
    states = {each.number: each.state for each in endpoint.revisions}
    states |= {each.number: each.state for each in change.revisions}
    if endpoint.desired != "running" or change.target is None:
        return endpoint.state
    if change.serving is None:
        return _E(states[change.target])
    if change.serving != change.target:
        return _E.UPDATING
    return _E.RUNNING if states[change.serving] is _R.READY else _E.DEGRADED
