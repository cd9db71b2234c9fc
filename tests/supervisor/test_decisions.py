"""What follows from rows and observations; neither a database nor a cluster."""

from dataclasses import replace

import pytest

from foundry.serving.endpoints.domain import (
    RevisionState,
)
from foundry.supervisor.changes import (
    apply_transfer,
    apply_validation,
    cut_off,
    fail_revision,
    refuse_scale,
    switch_to_revision,
)
from foundry.supervisor.decisions import Effect, Step, choose_next_step
from foundry.supervisor.ports import EngineObservation, EngineStatus, Transfer, Validation
from tests.supervisor.revisions import (
    LIMITS,
    E,
    R,
    changed,
    drained,
    endpoint,
    only,
    revision,
    running,
    step,
    updating,
)


def test_at_rest_nothing_is_done() -> None:
    assert step(running()) is None


@pytest.mark.parametrize(
    ("state", "second", "effect", "next_state", "allowed_s"),
    [
        (R.PENDING, "absent", None, R.VALIDATING, None),
        (R.VALIDATING, "absent", Effect.VALIDATE, None, None),
        (R.TRANSFERRING, "absent", Effect.TRANSFER, None, None),
        (R.DEPLOYING, "absent", Effect.DEPLOY, R.DEPLOYING, 60.0),
        (R.DEPLOYING, "running", None, R.VERIFYING, 300.0),
        (R.VERIFYING, "running", Effect.VERIFY, None, None),
    ],
)
def test_the_road_of_a_revision(
    state: RevisionState,
    second: EngineStatus,
    effect: Effect | None,
    next_state: RevisionState,
    allowed_s: float | None,
) -> None:
    found = step(updating(state, applied_replicas=None), second=second)
    assert found is not None
    assert (found.number, found.effect) == (2, effect)
    assert (only(found).state if found.change else None) == next_state
    # Whatever waits has a deadline.
    if found.change is not None:
        assert only(found).allowed_s == allowed_s
        assert allowed_s is not None or only(found).keep_deadline


def test_a_switch_closes_the_old_revision_and_drains_it() -> None:
    of = replace(updating(R.VERIFYING), fallback=1)
    change = switch_to_revision(of, of.revisions[1])
    assert change.fallback is None
    assert changed(change) == (E.RUNNING, 2, 2)
    new, old = change.revisions
    assert (new.number, new.state) == (2, R.READY)
    assert (old.number, old.state, old.allowed_s, old.desired) == (
        1, R.DRAINING, 3.0, "removed",
    )  # fmt: skip


@pytest.mark.parametrize("target", [None, 1])
def test_without_a_revision_to_go_to_nothing_is_done(target: int | None) -> None:
    ended = revision(1, R.FAILED, desired="running")
    assert (
        step(endpoint(ended, state=E.FAILED, serving=None, target=target), first="absent") is None
    )


def test_a_transfer_has_five_minutes_from_its_last_progress() -> None:
    of = updating(R.TRANSFERRING)
    moved = apply_transfer(of, of.revisions[1], Transfer(False, 5, 9))
    assert (only(moved).state, only(moved).allowed_s) == (R.TRANSFERRING, 300.0)
    done = apply_transfer(of, of.revisions[1], Transfer(True))
    # What serves may answer for 900 s before its accelerators are free, and is gone in a minute.
    assert (only(done).state, only(done).allowed_s) == (R.DEPLOYING, 960.0)
    fits = apply_validation(of, of.revisions[1], Validation(strategy="surge"))
    assert (only(fits).state, only(fits).allowed_s) == (R.TRANSFERRING, 300.0)


def test_what_was_killed_is_killed_again_after_half_a_minute() -> None:
    found = cut_off(running(), revision(1, R.DRAINING))
    assert (only(found).state, only(found).allowed_s) == (R.DRAINING, 30.0)


def test_what_drains_is_deleted_only_after_its_time() -> None:
    old = revision(1, R.DRAINING)
    of = endpoint(old, revision(2, R.READY), serving=2, target=2)
    assert step(of, second="running") is None
    late = replace(of, revisions=(replace(old, overdue=True), of.revisions[1]))
    deleted = step(late, second="running")
    assert deleted is not None
    assert (deleted.number, deleted.effect) == (1, Effect.DELETE)
    assert (only(deleted).state, only(deleted).allowed_s) == (R.DRAINING, 900.0)
    drains = replace(of, revisions=(drained(), of.revisions[1]))
    assert step(drains, first="deleting", second="running") == Step(1, Effect.COUNT)
    gone = step(drains, first="absent", second="running")
    assert only(gone).reason is None
    assert only(gone).state is R.REMOVED
    assert changed(gone) == (E.RUNNING, 2, 2)


@pytest.mark.parametrize("state", [R.PENDING, R.VALIDATING, R.TRANSFERRING, R.DEPLOYING])
def test_a_late_revision_fails_and_the_old_one_serves_on(state: RevisionState) -> None:
    found = step(updating(state, overdue=True))
    assert changed(found) == (E.RUNNING, 1, 1)
    assert (only(found).number, only(found).state) == (2, R.FAILED)
    assert found is not None and found.change is not None
    assert found.change.last_error is not None
    assert found.change.last_error.startswith("revision 2 failed: ")
    assert found.change.last_error.endswith("; revision 1 serves on")


def test_a_revision_that_answers_no_test_request_in_time_fails() -> None:
    found = step(updating(R.VERIFYING, overdue=True), second="starting")
    assert changed(found) == (E.RUNNING, 1, 1)
    assert "test request within 5 minutes" in str(only(found).reason)


def test_an_engine_that_failed_to_start_says_why() -> None:
    of = endpoint(revision(1, R.DEPLOYING), state=E.DEPLOYING, target=1)
    found = step(of, first="failed")
    assert changed(found) == (E.FAILED, None, 1)
    assert only(found).reason == "the engine did not start: why"


def test_validation_refuses_at_once_waits_for_what_is_missing_and_goes_on() -> None:
    of = updating(R.VALIDATING)
    two = of.revisions[1]
    refused = apply_validation(of, two, Validation(reasons=("no sglang", "no int4")))
    assert changed(refused) == (E.RUNNING, 1, 1)
    assert only(refused).reason == "no sglang; no int4"
    waits = apply_validation(of, two, Validation(missing=("no GPU",)))
    assert (only(waits).state, only(waits).keep_deadline) == (R.VALIDATING, True)
    assert only(waits).progress == {"message": "no GPU"}
    told = replace(two, reason="no GPU")
    assert apply_validation(of, told, Validation(missing=("no GPU",))) is None
    ahead = apply_validation(of, two, Validation(strategy="recreate"))
    assert (only(ahead).state, only(ahead).strategy, only(ahead).allowed_s) == (
        R.TRANSFERRING, "recreate", 300.0,
    )  # fmt: skip


def test_a_transfer_lives_as_long_as_it_moves() -> None:
    of = updating(R.TRANSFERRING, progress={"bytes_done": 10})
    two = of.revisions[1]
    moved = apply_transfer(of, two, Transfer(done=False, bytes_done=11, bytes_total=20))
    assert (only(moved).allowed_s, only(moved).progress["bytes_done"]) == (300.0, 11)
    assert apply_transfer(of, two, Transfer(done=False, bytes_done=10, bytes_total=20)) is None


def test_surge_leaves_the_old_engine_and_recreate_makes_room_first() -> None:
    of = updating(R.TRANSFERRING)
    assert changed(apply_transfer(of, of.revisions[1], Transfer(True))) == (E.UPDATING, 1, 2)
    two = replace(of.revisions[1], strategy="recreate")
    change = apply_transfer(of, two, Transfer(True))
    assert change is not None
    assert changed(change) == (E.DEPLOYING, None, 2)
    assert change.fallback == 1
    assert [(each.number, each.state) for each in change.revisions] == [
        (2, R.DEPLOYING),
        (1, R.DRAINING),
    ]


def test_recreate_waits_until_the_old_engine_is_gone() -> None:
    two = revision(2, R.DEPLOYING, strategy="recreate", applied_replicas=None)
    of = endpoint(revision(1, R.DRAINING), two, state=E.DEPLOYING, target=2, fallback=1)
    assert step(of) is None
    assert step(of, first="deleting") is None
    gone = replace(of, revisions=(revision(1, R.REMOVED), two))
    found = step(gone, first="absent")
    assert found is not None
    assert (found.number, found.effect) == (2, Effect.DEPLOY)


def test_a_failed_recreate_brings_the_old_revision_back() -> None:
    two = revision(2, R.VERIFYING, strategy="recreate")
    of = endpoint(revision(1, R.REMOVED), two, state=E.VERIFYING, target=2, fallback=1)
    change = fail_revision(of, two, "it is mute")
    assert changed(change) == (E.PENDING, None, 1)
    assert change.fallback is None
    assert change.last_error == "revision 2 failed: it is mute; revision 1 returns"
    failed, back = change.revisions
    assert (failed.number, failed.state, failed.desired) == (2, R.FAILED, "removed")
    assert (back.number, back.state, back.desired) == (1, R.PENDING, "running")
    assert back.applied_replicas is None


def test_a_lost_engine_is_built_again_from_its_row() -> None:
    found = step(running(), first="absent")
    assert changed(found) == (E.PENDING, None, 1)
    assert (only(found).state, only(found).applied_replicas) == (R.PENDING, None)


def test_the_old_engine_lost_during_an_update_stays_as_the_fallback() -> None:
    found = step(updating(R.DEPLOYING), first="absent", second="starting")
    assert changed(found) == (E.DEPLOYING, None, 2)
    assert found is not None and found.change is not None
    assert found.change.fallback == 1


def test_the_old_engine_dead_during_an_update_ends_nothing() -> None:
    found = step(updating(R.DEPLOYING), first="failed", second="starting")
    assert changed(found) == (E.DEPLOYING, None, 2)
    assert (only(found).number, only(found).state) == (1, R.FAILED)
    assert found is not None and found.change is not None
    assert found.change.last_error == "the engine did not start: why"


def test_the_third_crash_in_ten_minutes_is_a_loop() -> None:
    second = step(running(crashes=1), first="unhealthy")
    assert changed(second) == (E.DEGRADED, 1, 1)
    assert (only(second).crashed, only(second).reason, only(second).allowed_s) == (
        True, "why", 60.0,
    )  # fmt: skip
    third = step(running(crashes=2), first="unhealthy")
    assert changed(third) == (E.FAILED, None, 1)
    assert "crashed 3 times in 10 minutes" in str(only(third).reason)
    # A deployment that is only being changed has not crashed.
    assert only(step(running(crashes=2), first="starting")).crashed is False


def test_a_degraded_engine_recovers_or_fails_by_its_deadline() -> None:
    assert step(running(R.DEGRADED), first="unhealthy") is None
    assert changed(step(running(R.DEGRADED))) == (E.RUNNING, 1, 1)
    late = running(R.DEGRADED, overdue=True)
    assert changed(step(late, first="unhealthy")) == (E.FAILED, None, 1)
    # Some of its replicas still answer.
    seen = {"engine-x-r1": EngineObservation("unhealthy", "why", ready=1)}
    assert choose_next_step(late, seen, LIMITS) is None


@pytest.mark.parametrize(("status", "crashed"), [("unhealthy", True), ("failed", False)])
def test_while_one_replica_answers_an_engine_is_only_degraded(
    status: EngineStatus, crashed: bool
) -> None:
    seen = {"engine-x-r1": EngineObservation(status, "one of three died", ready=2)}
    found = choose_next_step(running(crashes=2), seen, LIMITS)
    assert changed(found) == (E.DEGRADED, 1, 1)
    assert (only(found).state, only(found).reason, only(found).crashed) == (
        R.DEGRADED, "one of three died", crashed,
    )  # fmt: skip
    assert choose_next_step(running(R.DEGRADED, crashes=3, overdue=True), seen, LIMITS) is None
    none = {"engine-x-r1": EngineObservation(status, "all died")}
    assert changed(choose_next_step(running(crashes=2), none, LIMITS)) == (E.FAILED, None, 1)


def test_scaling_deploys_the_same_application_again() -> None:
    found = step(running(replicas=3))
    assert found is not None
    assert (found.effect, only(found).applied_replicas, only(found).state) == (
        Effect.DEPLOY, 3, R.READY,
    )  # fmt: skip
    assert changed(found) == (E.RUNNING, 1, 1)


def test_a_refused_scale_is_said_once_and_holds_up_no_successor() -> None:
    of = running(replicas=3)
    told = refuse_scale(of, "no room")
    assert told is not None
    assert (changed(told), told.last_error, told.revisions) == (
        (E.RUNNING, 1, 1), "it was not scaled: no room", (),
    )  # fmt: skip
    refused = replace(of, last_error=told.last_error)
    assert refuse_scale(refused, "no room") is None
    again = step(refused)
    assert again is not None
    assert again.effect is Effect.DEPLOY
    # The wish was taken back.
    back = step(replace(running(), last_error=told.last_error))
    assert back is not None
    assert back.change == replace(told, last_error=None)
    # A successor makes room, or has replicas of its own.
    two = revision(2, R.VALIDATING)
    ahead = step(endpoint(
        revision(1, R.READY, replicas=3), two, state=E.UPDATING, serving=1, target=2,
        last_error=told.last_error,
    ))  # fmt: skip
    assert ahead == Step(2, Effect.VALIDATE)


def test_an_application_that_vanishes_before_it_is_ready_is_tried_three_times() -> None:
    again = step(updating(R.DEPLOYING))
    assert again is not None
    assert (again.effect, only(again).crashed) == (Effect.DEPLOY, True)
    assert changed(step(updating(R.DEPLOYING, crashes=2))) == (E.RUNNING, 1, 1)
    back = step(updating(R.VERIFYING))
    assert (only(back).state, only(back).applied_replicas) == (R.DEPLOYING, 1)
