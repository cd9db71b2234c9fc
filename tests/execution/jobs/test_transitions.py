"""The table of transitions, and what becomes of one whose source is another state."""

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text

from foundry.execution.jobs import transitions
from foundry.execution.jobs.domain import ACTIVE, LEASED, JobState, Phase
from foundry.execution.jobs.queue import load
from foundry.execution.jobs.tables import Job
from foundry.execution.jobs.transitions import TABLE, JobTransitions, Transition
from foundry.infra.database import Database
from tests.execution.jobs.test_leases import submit

S = JobState
FENCE = 7


def targets(state: JobState) -> set[JobState]:
    return {each.target for each in TABLE.values() if state in each.sources}


def test_every_active_state_can_end_every_way_that_it_must() -> None:
    for state in ACTIVE:
        assert S.CANCELLED in targets(state), state
    reached, frontier = {S.QUEUED}, {S.QUEUED}
    while frontier := {to for state in frontier for to in targets(state)} - reached:
        reached |= frontier
    assert reached == set(S)


def test_success_is_final_and_failure_resumes() -> None:
    assert targets(S.SUCCEEDED) == set()
    assert targets(S.FAILED) == targets(S.CANCELLED) == {S.QUEUED}
    assert targets(S.STALLED) == {S.QUEUED, S.FAILED, S.RUNNING, S.CANCELLED}
    assert targets(S.QUEUED) == {S.ADMITTED, S.RUNNING, S.CANCELLED}
    succeeding = {state for state in S if S.SUCCEEDED in targets(state)}
    assert succeeding == LEASED


CARRIED_OUT: dict[str, Callable[[JobTransitions, Job], Awaitable[Job | None]]] = {
    "ADMIT": lambda jobs, job: jobs.admit(job.id),
    "OPEN": lambda jobs, job: jobs.open_attempt(job, attempt=2),
    "WITHDRAW": lambda jobs, job: jobs.withdraw(job, "Ray"),
    "CLAIM": lambda jobs, job: jobs.claim(job.id, "by-ray"),
    "CLAIM_BY_HAND": lambda jobs, job: jobs.claim(job.id, None),
    "TRAIN": lambda jobs, job: jobs.show_phase(job.id, FENCE, Phase.TRAIN, None),
    "CHECKPOINT": lambda jobs, job: jobs.show_phase(job.id, FENCE, Phase.CHECKPOINT, None),
    "STALL": lambda jobs, job: jobs.stall(job, "silent"),
    "REQUEUE": lambda jobs, job: jobs.requeue_or_fail(job, {"message": "x"}),
    "EXHAUST": lambda jobs, job: jobs.requeue_or_fail(job, {"message": "x"}),
    "SUCCEED": lambda jobs, job: jobs.succeed(job.id, FENCE, {}),
    "FAIL": lambda jobs, job: jobs.fail(job.id, FENCE, {}),
    "CANCEL_DRIVEN": lambda jobs, job: jobs.cancel_driven(job.id, FENCE),
    "CANCEL_WAITING": lambda jobs, job: jobs.cancel_waiting(job.id),
    "CANCEL_ENDED": lambda jobs, job: jobs.cancel_ended(job),
    "RESUME": lambda jobs, job: jobs.resume(job.id),
}


def test_every_transition_of_the_table_is_carried_out_somewhere() -> None:
    assert CARRIED_OUT.keys() == TABLE.keys()


async def put(database: Database, job_id: UUID, state: JobState, failures: int) -> Job:
    """Lay a job into a state, with a lease and a request to stop."""
    async with database.begin() as db:
        await db.execute(
            text(
                "UPDATE jobs SET state = :state, fence = :fence, failures = :failures, "
                "submission_id = 'by-ray', cancel_requested = true WHERE id = :id"
            ),
            {"state": state, "fence": FENCE, "failures": failures, "id": job_id},
        )
    found = await load(database, job_id)
    assert found is not None
    return found


@pytest.mark.postgres
async def test_a_transition_moves_from_its_sources_and_from_nowhere_else(
    database: Database,
) -> None:
    job_id = (await submit(database)).id

    async def attempt(name: str, transition: Transition, source: JobState) -> None:
        job = await put(database, job_id, source, failures=3 if name == "EXHAUST" else 0)
        async with database.begin() as db:
            moved = await CARRIED_OUT[name](JobTransitions(db), job)
        found = await load(database, job_id)
        assert found is not None
        allowed = source in transition.sources
        assert (moved is not None) == allowed, (name, source)
        assert found.state == (transition.target if allowed else source), (name, source)

    for name, transition in TABLE.items():
        for source in JobState:
            await attempt(name, transition, source)


@pytest.mark.postgres
@pytest.mark.parametrize("name", ["OPEN", "WITHDRAW", "STALL", "REQUEUE", "TRAIN", "SUCCEED"])
async def test_a_transition_of_one_who_lost_the_fence_changes_nothing(
    database: Database, name: str
) -> None:
    job_id = (await submit(database)).id
    source = min(TABLE[name].sources)
    seen = await put(database, job_id, source, failures=0)
    async with database.begin() as db:
        await db.execute(text("UPDATE jobs SET fence = fence + 1"))
    async with database.begin() as db:
        assert await CARRIED_OUT[name](JobTransitions(db), seen) is None
    found = await load(database, job_id)
    assert found is not None
    assert found.state == source


def test_a_jobs_state_is_written_by_transitions_only() -> None:
    package = Path(transitions.__file__).parent
    writing = re.compile(r"job\.state\b[^=\n]*=[^=]|\bstate=(self|JobState|_S|transition)")
    writers = {path.name for path in package.glob("*.py") if writing.search(path.read_text())}
    assert writers == {"transitions.py"}
