"""How batches and learning rates are shared out."""

import pytest

from foundry.engines.training.diloco.ledger import Ledger, Shard
from foundry.execution.workers.diloco import planning
from tests.execution.workers.diloco.fleets import config


def test_members_of_about_one_speed_get_the_same() -> None:
    speeds = {"a": 1.0, "b": 1.15, "c": None}
    assert planning.counts(speeds, 100) == {"a": 100, "b": 100, "c": 100}


def test_a_slow_member_gets_fewer_in_proportion() -> None:
    speeds = {"a": 1.0, "b": 1.0, "c": 2.5}
    assert planning.counts(speeds, 100) == {"a": 100, "b": 100, "c": 40}


def test_lateness_of_a_moment_changes_no_plan() -> None:
    speeds = {"a": 0.01, "b": 0.01, "c": 0.025}
    assert planning.counts(speeds, 100) == {"a": 100, "b": 100, "c": 100}


@pytest.mark.parametrize(
    ("speed", "left", "count"), [(None, 60, 0), (1.0, 30.5, 30), (1.0, 500, 100), (1.0, -3, 0)]
)
def test_one_that_comes_later_gets_what_the_round_has_time_for(
    speed: float | None, left: float, count: int
) -> None:
    assert planning.catching_up(speed, left, 100) == count


def test_plans_spread_the_schedule_over_whatever_each_member_trains() -> None:
    settings = config(2, 100)
    before = Ledger(200, next=20)
    _, given = before.assign({"a": 4, "b": 2})
    outline = planning.outline(settings, 3, 0, before, given, 2)
    assert (outline.round, outline.fragment, outline.parts) == (3, 0, 1)
    # Six batches of two workers are three steps, after ten.
    fast, slow = outline.plan(given["a"], 0), outline.plan(given["b"], 0)
    assert (fast.first_step, fast.stride) == (10.0, 0.75)
    assert (slow.first_step, slow.stride) == (10.0, 1.5)
    assert slow.numbers == (24, 25)


def test_fragments_take_turns_and_three_members_share_the_parts_out() -> None:
    settings = config(3, 100, {"fragments": 2, "inner_steps": 8})
    before = Ledger(300)
    _, given = before.assign({"a": 4, "b": 4, "c": 4})
    fragments = [planning.fragment(settings.outer, r, before, given) for r in (1, 2, 3)]
    assert fragments == [0, 1, 0]
    assert planning.outline(settings, 1, 0, before, given, 3).parts == 3


def test_the_last_batches_take_the_whole_model_along() -> None:
    before = Ledger(20, next=10, returned=(Shard(0, 2),))
    _, most = before.assign({"a": 6, "b": 5})
    _, all_of_them = before.assign({"a": 6, "b": 6})
    streaming = config(2, 10, {"fragments": 2, "inner_steps": 12}).outer
    assert planning.fragment(streaming, 2, before, most) == 1
    assert planning.fragment(streaming, 2, before, all_of_them) is None
    assert planning.fragment(config(2, 10).outer, 2, before, all_of_them) == 0


def test_a_reducer_that_is_still_there_keeps_its_parts() -> None:
    first = planning.reducers(["a", "b", "c"], 4)
    assert first == ("a", "b", "c", "a")
    assert planning.reducers(["a", "c"], 4, first) == ("a", "c", "c", "a")
    assert planning.reducers(["a", "b"], 1) == ()


def test_batches_of_a_withdrawn_offer_are_given_out_first() -> None:
    ledger, given = Ledger(40).assign({"a": 4, "b": 4})
    ledger = planning.returned(ledger.commit(["a"]), given["a"])
    assert ledger.returned == (Shard(0, 4),)
    assert ledger.left == 36
    _, again = ledger.assign({"c": 6})
    assert again["c"] == (Shard(0, 4), Shard(8, 10))
