"""The lease of the acting supervisor, on a real PostgreSQL."""

import pytest
from sqlalchemy import text

from foundry.errors import LeaseLost
from foundry.infra.database import Database
from foundry.serving.endpoints.domain import EndpointChange
from foundry.serving.endpoints.domain import EndpointState as S
from foundry.serving.endpoints.supervision import Fence, list_unsettled_endpoints, record_change
from foundry.supervisor.lease import Lease
from tests.supervisor.site import Site

pytestmark = pytest.mark.postgres


async def test_a_supervisor_that_was_replaced_writes_nothing(site: Site) -> None:
    old, new = Lease(site.database), Lease(site.database)
    assert await old.take_or_renew()
    assert not await new.take_or_renew()
    fence = old.fence()
    async with site.database.begin() as db:
        await db.execute(text("UPDATE supervisor_leases SET expires_at = now()"))
    assert await new.take_or_renew()
    assert new.fence() == Fence(fence.token + 1)
    (before,) = await list_unsettled_endpoints(site.database)
    change = EndpointChange(S.VALIDATING, None, 1, None, None)
    with pytest.raises(LeaseLost):
        await record_change(site.database, before, change, fence)
    assert (await site.row()).state == S.PENDING
    # It renews in vain, and believes it no longer.
    assert not await old.take_or_renew()
    with pytest.raises(LeaseLost):
        old.fence()


async def test_a_lease_that_was_not_renewed_is_not_believed(database: Database) -> None:
    now = 100.0
    lease = Lease(database, clock=lambda: now, ttl_s=15.0)
    assert await lease.take_or_renew()
    now = 114.9
    assert lease.held
    now = 115.0
    with pytest.raises(LeaseLost):
        lease.fence()
