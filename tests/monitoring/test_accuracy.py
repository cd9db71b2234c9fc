"""The gauges of the closed loop, and when they call for a review."""

import pytest

from foundry.infra.database import Database
from foundry.monitoring.accuracy import Accuracy
from tests.serving.outcomes.windows import Clerk, part


@pytest.mark.postgres
async def test_an_alarm_that_goes_on_is_told_once(database: Database) -> None:
    clerk, accuracy = Clerk(database), Accuracy(database)
    clerk.forecasts.tpot_ms = 10.0
    assert [await accuracy.publish()] == [False]
    await clerk.write(*(part(index) for index in range(6)))
    assert await clerk.close() == 6
    assert [await accuracy.publish() for _ in range(3)] == [True, False, False]
