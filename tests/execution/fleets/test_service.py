"""The log of a fleet, on a real PostgreSQL."""

import asyncio
import math
from dataclasses import replace
from uuid import UUID

import pytest

from foundry.errors import Conflict, LeaseLost, NotFound
from foundry.execution.fleets.domain import FleetEvent, MemberShare, RoundRecord
from foundry.execution.fleets.service import FleetLog, Fleets
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.request import JobRequest
from foundry.execution.jobs.service import Jobs
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.database import Database
from tests.execution.jobs.test_leases import start
from tests.governance.identity.principals import principal

pytestmark = pytest.mark.postgres
CALLER = principal()
SHARES = (
    MemberShare("w0", "node-a", True, 8, 4096, 2.25, 1.5, 1000, 3000),
    MemberShare("w1", "node-b", False, 4, 2048, 2.75, 3.5, 1000, 2000),
)


def committed(number: int, **fields: object) -> RoundRecord:
    record = RoundRecord(
        round=number,
        fragment=(number - 1) % 2,
        digest=f"{number:064x}",
        ledger={"total": 40, "next": 8 * number, "returned": [[0, 4]], "held": {"w1": [[4, 8]]}},
        members=SHARES,
        aborts=1,
        seconds=12.5,
        loss=2.25,
    )
    return replace(record, **fields)  # type: ignore[arg-type]


def jobs_of(db: object, caller: Principal) -> Jobs:
    return Jobs(db, AuditTrail(db, caller, "test"), caller)  # type: ignore[arg-type]


async def submitted(database: Database, caller: Principal = CALLER) -> UUID:
    async with database.begin() as db:
        job = await jobs_of(db, caller).queue_job(JobRequest("diloco", "bot", {"model": "bot"}))
    await start(database, job.id)
    return job.id


async def claimed(database: Database, job_id: UUID) -> FleetLog:
    lease, _ = await JobLease.claim(database, job_id)
    return FleetLog(database, job_id, lease.fence)


@pytest.fixture
async def job_id(database: Database) -> UUID:
    return await submitted(database)


async def test_rounds_are_committed_in_order_and_read_back(
    database: Database, job_id: UUID
) -> None:
    log = await claimed(database, job_id)
    assert await log.newest() is None
    assert await log.checkpoints() == []
    first = committed(1, eval_loss=2.5, checkpoint={"outer": "sha256:ab", "members": ["w0"]})
    await log.commit(first)
    await log.commit(committed(2))
    await log.commit(committed(3))
    assert await log.newest() == committed(3)
    assert await log.checkpoints() == [first]


async def test_a_checkpoint_is_noted_once_it_is_written(database: Database, job_id: UUID) -> None:
    log = await claimed(database, job_id)
    for number in (1, 2, 3):
        await log.commit(committed(number))
    for place in ("a", "b"):
        await log.keep(2, {"outer": place})
    await log.keep(3, {"outer": "c"})
    second, third = committed(2, checkpoint={"outer": "b"}), committed(3, checkpoint={"outer": "c"})
    assert await log.checkpoints() == [second, third]
    await log.keep(2, None)
    assert await log.checkpoints() == [third]
    with pytest.raises(Conflict, match="round 4 is not committed"):
        await log.keep(4, {"outer": "c"})
    await claimed(database, job_id)
    with pytest.raises(LeaseLost):
        await log.keep(3, {"outer": "c"})
    await log.forget_checkpoints()
    assert await log.checkpoints() == []


@pytest.mark.parametrize("number", [0, 2, 7])
async def test_a_gap_is_refused(database: Database, job_id: UUID, number: int) -> None:
    log = await claimed(database, job_id)
    with pytest.raises(Conflict, match=f"round {number} cannot be committed after round 0"):
        await log.commit(committed(number), [FleetEvent(0, "w0", "joined")])
    assert await log.newest() is None
    assert await log.history() == ()


async def test_a_commit_whose_answer_was_lost_may_be_repeated(
    database: Database, job_id: UUID
) -> None:
    log = await claimed(database, job_id)
    for _ in range(2):
        await log.commit(committed(1), [FleetEvent(1, "w1", "late")])
    assert await log.history() == (FleetEvent(1, "w1", "late"),)
    with pytest.raises(Conflict):
        await log.commit(committed(1, digest="f" * 64))


async def test_an_older_attempt_writes_nothing(database: Database, job_id: UUID) -> None:
    old = await claimed(database, job_id)
    await old.commit(committed(1))
    new = await claimed(database, job_id)
    for write in (
        old.commit(committed(2)),
        old.note([FleetEvent(1, "w0", "died")]),
        old.rewind(0),
    ):
        with pytest.raises(LeaseLost):
            await write
    assert await new.newest() == committed(1)
    assert await new.history() == ()
    await new.commit(committed(2))


async def test_of_two_attempts_at_a_round_one_counts(database: Database, job_id: UUID) -> None:
    """The same fence: only the order of the rounds decides."""
    log = await claimed(database, job_id)
    rivals = (log.commit(committed(1, digest=f"{each:064x}")) for each in range(8))
    outcomes = await asyncio.gather(*rivals, return_exceptions=True)
    assert sum(outcome is None for outcome in outcomes) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 7


async def test_a_job_that_has_ended_commits_no_round(database: Database, job_id: UUID) -> None:
    lease, _ = await JobLease.claim(database, job_id)
    await lease.finish({})
    with pytest.raises(LeaseLost):
        await FleetLog(database, job_id, lease.fence).commit(committed(1))


async def test_a_rewind_undoes_rounds_and_keeps_what_happened(
    database: Database, job_id: UUID
) -> None:
    log = await claimed(database, job_id)
    await log.commit(committed(1, checkpoint={"outer": "a"}), [FleetEvent(0, "w0", "joined")])
    await log.commit(committed(2))
    await log.commit(committed(3), [FleetEvent(3, "w1", "died", "no answer for 3 s")])
    with pytest.raises(Conflict, match="there is no round 4 to resume after; the newest is 3"):
        await log.rewind(4)
    await log.rewind(1)
    assert await log.newest() == committed(1, checkpoint={"outer": "a"})
    await log.rewind(1)
    await log.commit(committed(2, digest="e" * 64))
    assert await log.history() == (
        FleetEvent(0, "w0", "joined"),
        FleetEvent(3, "w1", "died", "no answer for 3 s"),
        FleetEvent(1, "", "resumed", "rounds 2 to 3 are trained again"),
        FleetEvent(1, "", "resumed"),
    )
    await log.rewind(0)
    assert await log.newest() is None


async def test_a_loss_that_is_no_number_is_kept_as_that(database: Database, job_id: UUID) -> None:
    log = await claimed(database, job_id)
    share = replace(SHARES[0], loss=math.inf)
    await log.commit(committed(1, loss=math.nan, eval_loss=math.nan, members=(share,)))
    found = await log.newest()
    assert found is not None
    assert math.isnan(found.loss) and math.isnan(found.members[0].loss)
    assert found.eval_loss is None


async def test_the_owner_reads_pages_and_strangers_nothing(
    database: Database, job_id: UUID
) -> None:
    log = await claimed(database, job_id)
    for number in (1, 2, 3):
        await log.commit(committed(number), [FleetEvent(number, f"w{number}", "joined")])
    async with database.begin() as db:
        fleets = Fleets(db, jobs_of(db, CALLER), CALLER)
        rows = await fleets.rounds(job_id, after=1, limit=1)
        assert [(row.round, row.checkpointed) for row in rows] == [(2, False)]
        events = await fleets.members(job_id, after=1, limit=5)
        assert [(row.seq, row.member, row.kind) for row in events] == [
            (2, "w2", "joined"),
            (3, "w3", "joined"),
        ]
        for stranger in (principal(), principal(tenant_id=CALLER.tenant_id)):
            others = Fleets(db, jobs_of(db, stranger), stranger)
            with pytest.raises(NotFound):
                await others.rounds(job_id, after=0, limit=5)
            with pytest.raises(NotFound):
                await others.members(job_id, after=0, limit=5)
