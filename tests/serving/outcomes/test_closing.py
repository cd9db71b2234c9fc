"""From what gateways wrote to outcomes and corrections, on a real PostgreSQL."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from foundry.errors import DatabaseUnavailable, InvalidRequest
from foundry.infra.database import Database
from foundry.serving.outcomes.repository import OutcomeRows, WindowRows
from foundry.serving.outcomes.service import PredictionOutcome, measure_staleness, read_bias
from tests.serving.outcomes.windows import (
    ENDPOINT,
    START,
    TENANT,
    VERSION,
    WINDOW_S,
    Clerk,
    part,
    statistics,
)

pytestmark = pytest.mark.postgres


@pytest.fixture
def clerk(database: Database) -> Clerk:
    return Clerk(database)


async def outcomes(database: Database) -> list[PredictionOutcome]:
    async with database.begin() as db:
        return list(await OutcomeRows(db).list_page(TENANT, None, None, 100))


async def test_a_finished_window_becomes_one_outcome(clerk: Clerk) -> None:
    await clerk.write(part(0, statistics(150)), part(0, statistics(100)))
    assert await clerk.close() == 1
    assert await clerk.close() == 0
    (found,) = await outcomes(clerk.database)
    assert (found.n, found.revision, found.source) == (250, 1, "gateway")
    assert (found.gpu, found.engine, found.engine_version) == ("cpu", "vllm", VERSION)
    assert found.started_at == START
    assert found.actual["tpot_ms"] == pytest.approx(40)
    assert found.actual["ttft_p50_ms"] == pytest.approx(200, rel=0.01)
    # An infinite bound is no number that could be compared.
    assert set(found.predicted) == {"tpot_ms", "ttft_p50_ms"}
    assert found.covered == {"tpot_ms": True, "ttft_p50_ms": True}
    assert found.load["concurrency"] == pytest.approx(250 / 75)
    assert clerk.forecasts.asked[0].input_mean == 100


async def test_a_window_is_closed_only_when_it_is_over_and_written(clerk: Clerk) -> None:
    await clerk.write(part(0))
    assert await clerk.close(1.0) == 0
    assert await clerk.close(1.0 + 61 / WINDOW_S) == 1


async def test_a_replica_replaces_its_own_part(clerk: Clerk) -> None:
    replica = uuid4()
    for n in (100, 200, 200):
        await clerk.write(part(0, statistics(n), replica=replica))
    await clerk.close()
    (found,) = await outcomes(clerk.database)
    assert found.n == 200


@pytest.mark.parametrize("why", ["few", "errors", "restart", "versions", "unknown", "refused"])
async def test_a_window_that_says_nothing_makes_no_outcome(clerk: Clerk, why: str) -> None:
    found = statistics(199 if why == "few" else 200)
    if why == "errors":
        found.errors = 20
    elif why == "restart":
        clerk.disturbances.at.append(START + timedelta(seconds=450))
    elif why == "unknown":
        clerk.forecasts.unknown = True
    elif why == "refused":
        clerk.forecasts.fault = InvalidRequest("the model is unknown")
    await clerk.write(part(0, found))
    if why == "versions":
        await clerk.write(part(0, version="0.30.0"))
    assert await clerk.close() == 0
    assert await outcomes(clerk.database) == []
    async with clerk.database.begin() as db:
        rows = await WindowRows(db).list_parts(ENDPOINT, 1, START)
        assert all(row.closed for row in rows)


@pytest.mark.parametrize("fault", [InvalidRequest("no shape"), ZeroDivisionError("a fault")])
async def test_one_endpoint_that_cannot_be_predicted_holds_up_no_other(
    clerk: Clerk, fault: Exception
) -> None:
    clerk.forecasts.fault, clerk.forecasts.broken = fault, uuid4()
    await clerk.write(part(0, endpoint=clerk.forecasts.broken), part(0))
    assert await clerk.close() == 1
    assert await clerk.close() == 0


async def test_windows_wait_while_the_database_is_away(clerk: Clerk) -> None:
    clerk.forecasts.fault = DatabaseUnavailable("PostgreSQL cannot be reached")
    await clerk.write(part(0))
    with pytest.raises(DatabaseUnavailable):
        await clerk.close()
    clerk.forecasts.fault = None
    assert await clerk.close() == 1


async def test_two_supervisors_make_one_outcome(clerk: Clerk) -> None:
    await clerk.write(*(part(index) for index in range(10)))
    made = await asyncio.gather(clerk.close(), clerk.close())
    assert sum(made) == 10
    assert len(await outcomes(clerk.database)) == 10


async def test_three_windows_correct_the_prediction(clerk: Clerk) -> None:
    clerk.forecasts.tpot_ms = 40 / 1.7
    await clerk.write(*(part(index) for index in range(2)))
    await clerk.close()
    async with clerk.database.begin() as db:
        assert (await read_bias(db)).cells == {}
    await clerk.write(part(2))
    await clerk.close()
    async with clerk.database.begin() as db:
        bias = await read_bias(db)
    # Three windows that agree: see the tests of the loop.
    found = bias.factor("cpu", "vllm", VERSION, "tpot_ms")
    assert found == pytest.approx(1.7 ** (3 / 3.5), rel=0.02)
    assert bias.factor("cpu", "vllm", VERSION, "ttft_p50_ms") == pytest.approx(1.0, abs=0.01)
    assert bias.factor("cpu", "sglang", None, "tpot_ms") == 1.0


async def test_a_correction_ignores_a_poisoned_window(clerk: Clerk) -> None:
    clerk.forecasts.tpot_ms = 40 / 1.7
    poisoned = statistics(200, tpot_ms=40_000.0)
    await clerk.write(*(part(index) for index in range(9)), part(9, poisoned))
    await clerk.close()
    async with clerk.database.begin() as db:
        bias = await read_bias(db)
    assert bias.factor("cpu", "vllm", VERSION, "tpot_ms") == pytest.approx(1.7, rel=0.1)


async def test_the_alarm_of_a_pair(clerk: Clerk) -> None:
    clerk.forecasts.tpot_ms = 10.0
    await clerk.write(*(part(index) for index in range(6)))
    await clerk.close()
    async with clerk.database.begin() as db:
        (found,) = (await measure_staleness(db)).items()
        assert await measure_staleness(db, uuid4()) == {}
    assert found[0] == ("cpu", "vllm", VERSION)
    assert found[1].stale
    assert found[1].median_ape == pytest.approx(0.75)


async def test_old_windows_are_forgotten(clerk: Clerk) -> None:
    await clerk.write(part(0), replace(part(0), endpoint_id=uuid4()))
    await clerk.close()
    await clerk.close(after_windows=31 * 96)
    async with clerk.database.begin() as db:
        left = (await db.execute(text("SELECT count(*) FROM endpoint_windows"))).scalar()
    assert left == 0
    assert len(await outcomes(clerk.database)) == 2
