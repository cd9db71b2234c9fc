"""How revisions that are not wanted any more go: pure functions."""

from dataclasses import replace

import pytest

from foundry.serving.endpoints.domain import (
    EndpointState,
    RevisionState,
)
from foundry.supervisor.changes import (
    apply_count,
)
from foundry.supervisor.decisions import Effect, Step
from foundry.supervisor.ports import EngineStatus
from tests.supervisor.revisions import (
    E,
    R,
    changed,
    drained,
    endpoint,
    only,
    revision,
    running,
    step,
)


@pytest.mark.parametrize(
    ("desired", "state", "rests"),
    [("stopped", E.STOPPING, E.STOPPED), ("deleted", E.DELETING, E.DELETED)],
)
def test_a_stop_removes_every_engine_and_then_rests(
    desired: str, state: EndpointState, rests: EndpointState
) -> None:
    asked = revision(1, R.READY, desired="removed")
    of = endpoint(asked, desired=desired, state=state, serving=1, target=1)
    deleted = step(of)
    assert deleted is not None
    assert (deleted.effect, only(deleted).state, only(deleted).allowed_s) == (
        Effect.DELETE, R.DRAINING, 120.0,
    )  # fmt: skip
    # Died between the effect and its record.
    assert step(of, first="deleting") == deleted
    removed = step(of, first="absent")
    assert (changed(removed)[0], only(removed).state) == (state, R.REMOVED)
    rest = step(replace(of, revisions=(replace(asked, state=R.REMOVED),)), first="absent")
    assert changed(rest) == (rests, None, 1)
    # Also what had failed before must be gone; nobody waits for its requests.
    failed = replace(of, revisions=(revision(1, R.FAILED),))
    assert step(failed) == Step(1, Effect.DELETE_NOW)
    assert step(failed, first="deleting") is None


@pytest.mark.parametrize("state", [R.READY, R.DEGRADED, R.DRAINING, R.DEPLOYING])
@pytest.mark.parametrize("status", ["running", "deleting"])
def test_a_stop_whose_time_is_over_cuts_requests_off(
    state: RevisionState, status: EngineStatus
) -> None:
    asked = revision(1, state, desired="removed", overdue=True)
    found = step(endpoint(asked, desired="stopped", state=E.STOPPING, target=1), first=status)
    assert found is not None
    assert (found.number, found.effect) == (1, Effect.DELETE_NOW)
    # Once more only if the replicas live on.
    assert (only(found).state, only(found).allowed_s) == (R.DRAINING, 30.0)
    assert only(found).reason == "its time was over: the requests that still ran were cut off"


def test_requests_that_drain_hold_up_no_successor() -> None:
    of = endpoint(drained(), revision(2, R.VERIFYING), state=E.VERIFYING, target=2)
    assert step(of, first="deleting", second="running") == Step(2, Effect.VERIFY)
    late = replace(of, revisions=(drained(overdue=True), of.revisions[1]))
    found = step(late, first="deleting", second="running")
    assert found is not None
    assert (found.number, found.effect) == (1, Effect.DELETE_NOW)


def test_how_many_requests_drain_is_told_when_it_changes() -> None:
    of = endpoint(drained(), desired="stopped", state=E.STOPPING, target=1)
    (old,) = of.revisions
    three = only(apply_count(of, old, 3))
    assert (three.reason, three.keep_deadline, three.progress["requests"]) == (
        "draining 3 requests, at most 120 s", True, 3,
    )  # fmt: skip
    assert three.progress["message"] == three.reason
    told = replace(old, progress=three.progress)
    assert apply_count(of, told, 3) is None
    assert apply_count(of, told, None) is None
    assert only(apply_count(of, told, 1)).reason == "draining 1 request, at most 120 s"
    cut = replace(old, progress={"phase": "cut off"})
    assert apply_count(of, cut, 2) is None


def test_a_wish_changes_with_what_the_owner_asks_and_with_nothing_else() -> None:
    of = running()
    seen = replace(of, state=E.DEGRADED, version=9, last_error="x", revisions=(
        replace(of.revisions[0], state=R.DEGRADED, overdue=True, reason="x"),
    ))  # fmt: skip
    assert seen.wish == of.wish
    scaled = replace(of, revisions=(replace(of.revisions[0], replicas=2),))
    stopped = replace(of, desired="stopped")
    now = replace(stopped, revisions=(replace(of.revisions[0], overdue=True),))
    wishes = {each.wish for each in (of, scaled, stopped, now, replace(of, target=2))}
    assert len(wishes) == 5
