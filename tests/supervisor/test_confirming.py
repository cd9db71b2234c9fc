"""A supervisor that slept, and the one that acts instead."""

import time

import pytest
from sqlalchemy import text

from foundry.errors import LeaseLost
from foundry.infra.database import Database
from foundry.supervisor.lease import Lease, read_boot_clock


@pytest.mark.postgres
async def test_a_machine_that_slept_asks_whether_it_still_acts(database: Database) -> None:
    asleep, other = (Lease(database, clock=lambda: 0.0) for _ in range(2))
    assert await asleep.take_or_renew()
    await asleep.confirm()
    async with database.begin() as db:
        await db.execute(text("UPDATE supervisor_leases SET expires_at = now()"))
    assert await other.take_or_renew()
    asleep.fence()  # its own clock has not moved
    with pytest.raises(LeaseLost, match="another supervisor has taken over"):
        await asleep.confirm()
    with pytest.raises(LeaseLost, match="does not hold the lease"):
        await asleep.confirm()
    await other.confirm()


@pytest.mark.postgres
async def test_a_lease_that_ran_out_and_that_nobody_took_is_taken_again(
    database: Database,
) -> None:
    lease = Lease(database, clock=lambda: 0.0)
    assert await lease.take_or_renew()
    async with database.begin() as db:
        await db.execute(text("UPDATE supervisor_leases SET expires_at = now()"))
    await lease.confirm()
    assert not await Lease(database).take_or_renew()


def test_the_clock_of_a_lease_goes_on_while_the_machine_sleeps() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= read_boot_clock() <= time.clock_gettime(time.CLOCK_BOOTTIME)
