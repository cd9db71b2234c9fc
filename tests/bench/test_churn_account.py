"""The churn bench's arithmetic, on a run small enough to do by hand."""

import pytest

from foundry.execution.fleets.domain import FleetEvent, MemberShare, RoundRecord
from tests.bench import churn_account as account
from tests.bench.churn_account import Life


def test_a_calm_run_sets_the_pace() -> None:
    rounds = [(110.0, _round(1, a=10, b=10)), (120.0, _round(2, a=10, b=10))]
    assert account.began(rounds) == 100.0
    assert account.seconds(rounds) == 20.0
    assert account.batches(rounds) == 40
    assert account.pace(rounds) == pytest.approx(1.0)
    assert account.step_seconds(rounds) == pytest.approx(1.0)


def test_a_calm_run_is_fully_efficient() -> None:
    rounds = [(110.0, _round(1, a=10, b=10)), (120.0, _round(2, a=10, b=10))]
    alive = account.lives(rounds, {}, {})
    assert alive == [Life("a", 100.0, 120.0), Life("b", 100.0, 120.0)]
    assert account.step_efficiency(rounds, alive, account.pace(rounds)) == pytest.approx(1.0)


def test_a_dead_worker_is_not_expected_to_train_and_its_lost_work_counts_against_the_run() -> None:
    # b trained 5 s of round 2 in vain, then c came at 125 and trained 5 s.
    rounds = [
        (110.0, _round(1, a=10, b=10)),
        (120.0, _round(2, a=10)),
        (130.0, _round(3, a=10, c=5)),
    ]
    alive = account.lives(rounds, {"c": 125.0}, {"b": 115.0})
    assert [life.seconds for life in alive] == [30.0, 15.0, 5.0]
    assert account.step_efficiency(rounds, alive, 1.0) == pytest.approx(45 / 50)


def test_work_that_came_late_is_not_committed() -> None:
    late = MemberShare("b", "n", False, 10, 10, 1.0, 10.0, 0, 0)
    record = _round(1, a=10)
    rounds = [(110.0, RoundRecord(1, 0, "d", {}, (*record.members, late), 0, 10.0, 1.0))]
    assert account.batches(rounds) == 10
    assert account.first_merged(rounds, "a") == 110.0
    assert account.first_merged(rounds, "b") is None


def test_gaps_and_corruption() -> None:
    assert account.relative_gap(2.02, 2.0) == pytest.approx(0.01)
    assert account.relative_gap(1.98, 2.0) == pytest.approx(-0.01)
    events = [FleetEvent(1, "a", "corrupt"), FleetEvent(1, "b", "died")]
    digests = [{"a": "1", "b": "1"}, {"a": "2", "b": "3"}]
    assert account.corrupt_commits(digests, events) == 2


def _round(number: int, **batches: int) -> RoundRecord:
    shares = tuple(
        MemberShare(member, "node", True, count, count, 1.0, float(count), 0, 0)
        for member, count in batches.items()
    )
    return RoundRecord(number, 0, "digest", {}, shares, 0, 10.0, 1.0)
