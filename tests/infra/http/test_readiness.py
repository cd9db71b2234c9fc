"""Probes: one ping for all of them, and a ping that hangs is a verdict."""

import asyncio
from dataclasses import dataclass, field

import pytest
from asyncpg.exceptions import InvalidPasswordError

from foundry.errors import DatabaseUnavailable, Overloaded
from foundry.infra.http.readiness import MAX_WAITING, Readiness


@dataclass
class Pinged:
    """Answers when it is let."""

    pings: int = 0
    down: bool = False
    error: Exception | None = None
    answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def ping(self) -> None:
        self.pings += 1
        await self.answer.wait()
        if self.error is not None:
            raise self.error
        if self.down:
            raise DatabaseUnavailable("PostgreSQL cannot be reached")


async def test_many_probes_are_one_ping_and_the_verdict_holds() -> None:
    database = Pinged()
    readiness = Readiness(database, ttl_s=60, timeout_s=30)
    probes = [asyncio.create_task(readiness.check_ready()) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await readiness.check_ready()
    database.answer.set()
    await asyncio.gather(*probes)
    await readiness.check_ready()
    assert database.pings == 1


async def test_a_database_that_is_down_stays_so_for_the_verdicts_time() -> None:
    database = Pinged(down=True)
    database.answer.set()
    readiness = Readiness(database, ttl_s=60)
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable):
            await readiness.check_ready()
    assert database.pings == 1


async def test_an_unknown_fault_is_not_ready() -> None:
    database = Pinged()
    database.answer.set()
    readiness = Readiness(database, ttl_s=0)
    await readiness.check_ready()
    database.error = InvalidPasswordError("password authentication failed")
    with pytest.raises(DatabaseUnavailable, match="does not answer as it should"):
        await readiness.check_ready()
    database.error = None
    await readiness.check_ready()


async def test_a_ping_that_hangs_is_refused_and_not_repeated() -> None:
    database = Pinged()
    readiness = Readiness(database, ttl_s=0, timeout_s=0.01)
    for _ in range(5):
        with pytest.raises(DatabaseUnavailable, match=r"did not answer within 0\.01 seconds"):
            await readiness.check_ready()
    assert database.pings == 1
    database.answer.set()
    readiness._timeout_s = 30
    await readiness.check_ready()
