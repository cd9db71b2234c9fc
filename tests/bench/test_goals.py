"""Which goals a run missed."""

from tests.bench.goals import Goal, list_missed


def test_a_bound_itself_is_reached_and_what_was_not_measured_is_no_miss() -> None:
    goals = {"fast": Goal(at_least=3.0), "small": Goal(at_most=0.35), "other": Goal(at_least=1)}
    assert list_missed({"fast": 3.0, "small": 0.35}, goals) == []
    assert list_missed({"fast": 2.99, "small": 0.36, "more": 0}, goals) == ["fast", "small"]
