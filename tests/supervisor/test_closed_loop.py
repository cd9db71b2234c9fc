"""When windows are closed and when deployments are reviewed; a clock that the test moves."""

import pytest

from foundry.errors import DatabaseUnavailable, Unavailable
from foundry.supervisor.closed_loop import ClosedLoop

DAY_S = 86_400.0


class Loop:
    """Scripted collaborators of one loop."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.outcomes, self.alarm = 0, False
        self.done: list[str] = []
        self.fault: Exception | None = None
        self.alarm_during_review = False
        self.loop = ClosedLoop(
            self, self, self, self.review, close_s=60.0, review_s=DAY_S, clock=lambda: self.now
        )

    async def predict_missing(self) -> int:
        self.done.append("complete")
        return 0

    async def close_windows(self) -> int:
        self.done.append("close")
        return self.outcomes

    async def publish(self) -> bool:
        self.done.append("publish")
        return self.alarm

    async def review(self) -> None:
        self.done.append("review")
        if self.alarm_during_review:
            self.alarm_during_review = False
            self.outcomes, self.alarm = 1, True
            await self.loop.close_windows()
        if self.fault is not None:
            raise self.fault

    async def due(self) -> bool:
        return await self.loop.review_if_due()


async def test_a_review_is_due_at_the_start_and_then_once_a_day() -> None:
    site = Loop()
    assert await site.due()
    assert not await site.due()
    site.now += DAY_S - 1
    assert not await site.due()
    site.now += 1
    assert await site.due()
    assert site.done == ["review", "review"]


@pytest.mark.parametrize(
    ("outcomes", "alarm", "done"),
    [
        (0, True, ["complete", "close"]),
        (3, False, ["complete", "close", "publish"]),
        (3, True, ["complete", "close", "publish", "review"]),
    ],
)
async def test_only_a_new_alarm_brings_the_review_forward(
    outcomes: int, alarm: bool, done: list[str]
) -> None:
    site = Loop()
    await site.due()
    site.done.clear()
    site.outcomes, site.alarm = outcomes, alarm
    await site.loop.close_windows()
    assert await site.due() is ("review" in done)
    assert site.done == done


async def test_an_alarm_during_a_review_asks_for_another() -> None:
    site = Loop()
    site.alarm_during_review = True
    assert await site.due()
    assert await site.due()
    assert not await site.due()


@pytest.mark.parametrize("fault", [Unavailable("Ray is away"), KeyError("x"), TimeoutError()])
async def test_a_review_that_fails_is_due_again_in_an_hour(fault: Exception) -> None:
    site = Loop()
    site.fault = fault
    with pytest.raises(type(fault)):
        await site.due()
    site.now += 3599.0
    assert not await site.due()
    site.now += 1.0
    site.fault = None
    assert await site.due()
    site.now += 3600.0
    assert not await site.due()


async def test_a_review_never_holds_up_the_closing_of_windows() -> None:
    site = Loop()
    site.outcomes, site.alarm = 1, True
    await site.loop.close_windows()
    assert "review" not in site.done
    outcomes, reviews = site.loop.list_chores()
    assert (outcomes.name, outcomes.period_s, outcomes.deadline_s) == ("outcomes", 60.0, 900.0)
    assert (reviews.name, reviews.period_s, reviews.deadline_s) == ("reviews", 60.0, 21_600.0)


async def test_postgresql_away_is_for_the_next_turn() -> None:
    site = Loop()

    async def away() -> int:
        raise DatabaseUnavailable("PostgreSQL cannot be reached")

    site.predict_missing = away  # type: ignore[method-assign]
    with pytest.raises(DatabaseUnavailable):
        await site.loop.close_windows()
    assert site.done == []
