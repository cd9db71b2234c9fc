"""The budget of retries: a share of the recent requests, and a floor."""

from foundry.gateway.retries import FLOOR, WINDOW_S, RetryBudget


def test_the_budget_is_a_tenth_of_the_last_ten_seconds() -> None:
    now = 0.0
    budget = RetryBudget(lambda: now)
    assert [budget.take_retry() for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
    for _ in range(100):
        budget.count_request()
    assert [budget.take_retry() for _ in range(6)] == [True] * 5 + [False]
    now = WINDOW_S
    assert [budget.take_retry() for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
