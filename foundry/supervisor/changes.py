"""What becomes of the rows after a step: pure functions of rows and of what an effect found.

An endpoint's own state follows from those of its revisions.
"""

from dataclasses import replace

from foundry.serving.endpoints.domain import (
    LONGEST_ANSWER_S,
    PENDING_S,
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

# The specification's minutes without progress: a transfer of any size may take as long as it moves.
TRANSFERRING_S = 300.0
VERIFYING_S = 300.0
# Gateways remember a route for a second: an engine that is replaced is deleted once they forgot it.
CLOSING_S = 3.0
# An application that is being deleted has its drain and some.
ROOM_S = LONGEST_ANSWER_S + 60.0
# Replicas that were killed are gone in a second or two; a lost node may keep one longer.
_CUT_OFF_AGAIN_S = 30.0
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
    draining = revise(serving, _R.DRAINING, allowed_s=CLOSING_S)
    return change_endpoint(endpoint, ahead, draining, serving=None, fallback=serving.number)


def switch_to_revision(endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> EndpointChange:
    """The switch: from this change on, requests go to the revision."""
    changes = [revise(revision, _R.READY)]
    old = endpoint.find_revision(endpoint.serving)
    if old is not None and old.number != revision.number:
        changes.append(revise(old, _R.DRAINING, allowed_s=CLOSING_S))
    return change_endpoint(endpoint, *changes, serving=revision.number, fallback=None)


def begin_drain(
    endpoint: EndpointSnapshot, revision: RevisionSnapshot, allowed_s: float
) -> EndpointChange:
    """Its application is being deleted; the requests that it answers have `allowed_s` still."""
    said = f"draining its requests, at most {allowed_s:.0f} s"
    progress: dict[str, object] = {"phase": "draining", "allowed_s": allowed_s, "message": said}
    draining = revise(revision, _R.DRAINING, reason=said, allowed_s=allowed_s, progress=progress)
    return change_endpoint(endpoint, draining)


def is_draining(revision: RevisionSnapshot) -> bool:
    """Whether its application was asked to end and its requests have time still."""
    return revision.state is _R.DRAINING and "phase" in revision.progress


def remove_revision(endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> EndpointChange:
    """Its application is gone."""
    told = revision.progress.get("phase") != "draining"
    removed = revise(revision, _R.REMOVED, reason=revision.reason if told else None)
    return change_endpoint(endpoint, removed)


def apply_count(
    endpoint: EndpointSnapshot, revision: RevisionSnapshot, requests: int | None
) -> EndpointChange | None:
    """Tells how many requests drain. None: nothing new, or they cannot be counted."""
    if revision.progress.get("phase") != "draining":
        return None
    if requests is None or requests == revision.progress.get("requests"):
        return None
    allowed_s = revision.progress.get("allowed_s", LONGEST_ANSWER_S)
    said = f"draining {requests} request{'' if requests == 1 else 's'}, at most {allowed_s:.0f} s"
    progress = revision.progress | {"requests": requests, "message": said}
    counted = revise(revision, _R.DRAINING, reason=said, keep_deadline=True, progress=progress)
    return change_endpoint(endpoint, counted)


def cut_off(endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> EndpointChange:
    """Its replicas were killed; if they live on, they are again."""
    said = "its time was over: the requests that still ran were cut off"
    progress: dict[str, object] = {"phase": "cut off", "message": said}
    cut = revise(revision, _R.DRAINING, reason=said, allowed_s=_CUT_OFF_AGAIN_S, progress=progress)
    return change_endpoint(endpoint, cut)


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
    """Whether the endpoint's error is that of a scale."""
    return (endpoint.last_error or "").startswith(_NOT_SCALED)


def progress_message(message: str) -> dict[str, object]:
    return {"message": message}


def revise(revision: RevisionSnapshot, state: RevisionState, **values: object) -> RevisionChange:
    """A change of `revision` to a state; what is not named is cleared with its old one."""
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
    return replace(change, state=_follow_revisions(endpoint, change))


def _follow_revisions(endpoint: EndpointSnapshot, change: EndpointChange) -> EndpointState:
    states = {each.number: each.state for each in endpoint.revisions}
    states |= {each.number: each.state for each in change.revisions}
    if endpoint.desired != "running" or change.target is None:
        return endpoint.state
    if change.serving is None:
        return _E(states[change.target])
    if change.serving != change.target:
        return _E.UPDATING
    return _E.RUNNING if states[change.serving] is _R.READY else _E.DEGRADED
