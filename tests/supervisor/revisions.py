"""Endpoints with one or two revisions, and what is decided on them."""

from dataclasses import replace
from uuid import UUID

from foundry.serving.endpoints.domain import (
    EndpointChange,
    EndpointSnapshot,
    EndpointState,
    RevisionChange,
    RevisionSnapshot,
    RevisionState,
)
from foundry.supervisor.decisions import Limits, Step, choose_next_step
from foundry.supervisor.ports import EngineObservation, EngineStatus

E, R = EndpointState, RevisionState
LIMITS = Limits(60.0, 120.0)
ID = UUID(int=1)


def revision(number: int, state: RevisionState, **values: object) -> RevisionSnapshot:
    made = RevisionSnapshot(number, f"engine-x-r{number}", {}, "d", applied_replicas=1, state=state)
    if state in (R.DRAINING, R.REMOVED, R.FAILED):
        made = replace(made, desired="removed")
    return replace(made, **values)  # type: ignore[arg-type]


def endpoint(*revisions: RevisionSnapshot, **values: object) -> EndpointSnapshot:
    made = EndpointSnapshot(
        ID, ID, ID, "smol", ID, "running", E.RUNNING, "engine-x-r1", {}, 1, revisions=revisions
    )
    return replace(made, **values)  # type: ignore[arg-type]


def running(state: RevisionState = R.READY, **values: object) -> EndpointSnapshot:
    """One revision, which serves."""
    seen = E.RUNNING if state is R.READY else E.DEGRADED
    return endpoint(revision(1, state, **values), state=seen, serving=1, target=1)


def updating(state: RevisionState, **values: object) -> EndpointSnapshot:
    """Revision 1 serves, 2 is on its way."""
    two = revision(2, state, **{"strategy": "surge", **values})
    return endpoint(revision(1, R.READY), two, state=E.UPDATING, serving=1, target=2)


def step(
    of: EndpointSnapshot, first: EngineStatus = "running", second: EngineStatus = "absent"
) -> Step | None:
    seen = {
        "engine-x-r1": EngineObservation(first, "why"),
        "engine-x-r2": EngineObservation(second),
    }
    return choose_next_step(
        of, {name: each for name, each in seen.items() if each.status != "absent"}, LIMITS
    )


def changed(found: Step | EndpointChange | None) -> tuple[EndpointState, int | None, int | None]:
    change = found.change if isinstance(found, Step) else found
    assert change is not None
    return change.state, change.serving, change.target


def only(found: Step | EndpointChange | None) -> RevisionChange:
    change = found.change if isinstance(found, Step) else found
    assert change is not None
    (single,) = change.revisions
    return single


def drained(**values: object) -> RevisionSnapshot:
    """Revision 1, whose application was asked to end."""
    progress: dict[str, object] = {"phase": "draining", "allowed_s": 120.0}
    return revision(1, R.DRAINING, progress=progress, **values)
