"""A driver that begins while PostgreSQL is away."""

from typing import Any
from uuid import UUID

import pytest

from foundry.errors import DatabaseUnavailable, LeaseLost
from foundry.execution.jobs.leases import JobLease
from foundry.execution.workers import run

JOB = UUID(int=7)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What claiming brings, one after the other."""
    scripted: list[Any] = []

    async def claim(database: object, job_id: UUID, submission_id: str | None) -> Any:
        assert (job_id, submission_id) == (JOB, "sub")
        answer = scripted.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(JobLease, "claim", claim)
    monkeypatch.setattr(run, "_CLAIM_AGAIN_S", 0.0)
    return scripted


async def test_it_waits_for_a_database_that_comes_back(answers: list[Any]) -> None:
    database: Any = None
    answers += [DatabaseUnavailable("away"), DatabaseUnavailable("away"), ("lease", "job")]
    found: Any = await run.claim_patiently(database, JOB, "sub")
    assert found == ("lease", "job")


async def test_it_does_not_wait_for_ever_nor_for_what_is_lost(answers: list[Any]) -> None:
    database: Any = None
    answers += [DatabaseUnavailable("away")]
    with pytest.raises(DatabaseUnavailable):
        await run.claim_patiently(database, JOB, "sub", patience_s=-1.0)
    answers += [LeaseLost("another attempt has taken over")]
    with pytest.raises(LeaseLost):
        await run.claim_patiently(database, JOB, "sub")
    assert answers == []
