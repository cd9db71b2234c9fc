"""Jobs as they are asked for: by state, by their model's name, by the beginning of an id."""

import pytest

from foundry.errors import InvalidRequest
from foundry.execution.jobs.service import Job, Jobs
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.cursors import Page
from foundry.infra.database import Database
from tests.execution.jobs.test_leases import CALLER, cancel, submit
from tests.governance.identity.principals import principal

pytestmark = pytest.mark.postgres


async def _list(
    database: Database,
    reference: str | None = None,
    caller: Principal = CALLER,
    state: str | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page[Job]:
    async with database.begin() as db:
        jobs = Jobs(db, AuditTrail(db, caller, "test"), caller)
        return await jobs.list_jobs(state=state, reference=reference, cursor=cursor, limit=limit)


async def test_by_name_and_by_the_beginning_of_an_id(database: Database) -> None:
    first, second = await submit(database, "a"), await submit(database, "b")
    assert [job.id for job in (await _list(database, "a")).data] == [first.id]
    assert [job.id for job in (await _list(database, str(second.id)[:30])).data] == [second.id]
    # 65 s of creation time begin alike.
    both = await _list(database, str(second.id)[:8])
    assert {job.id for job in both.data} >= {second.id}
    assert (await _list(database, "c")).data == []
    assert (await _list(database, "a%")).data == []


async def test_another_projects_job_is_not_found_by_its_id(database: Database) -> None:
    job = await submit(database, "a")
    assert (await _list(database, str(job.id), caller=principal())).data == []


async def test_a_cursor_belongs_to_its_reference(database: Database) -> None:
    older, newer = await submit(database, "a"), None
    await cancel(database, older.id)
    newer = await submit(database, "a")
    page = await _list(database, "a", limit=1)
    assert [job.id for job in page.data] == [newer.id]
    rest = await _list(database, "a", cursor=page.next_cursor, limit=1)
    assert [job.id for job in rest.data] == [older.id]
    with pytest.raises(InvalidRequest, match="cursor"):
        await _list(database, "b", cursor=page.next_cursor)


async def test_several_states_at_once(database: Database) -> None:
    ended, queued = await submit(database, "a"), await submit(database, "b")
    await cancel(database, ended.id)
    found = await _list(database, state="QUEUED,CANCELLED")
    assert [job.id for job in found.data] == [queued.id, ended.id]
    assert [job.id for job in (await _list(database, state="CANCELLED")).data] == [ended.id]
    with pytest.raises(InvalidRequest, match="DONE is none; there are QUEUED, ADMITTED"):
        await _list(database, state="QUEUED,DONE")
