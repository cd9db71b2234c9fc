"""Every change of a job's state: where each may come from, in one table.

    QUEUED ──ADMIT──> ADMITTED ──OPEN──> STARTING ──CLAIM──> RUNNING ⇄ CHECKPOINTING
      ^                   ^──WITHDRAW────────┘                   │      (SHOW_PHASE)
      │                     (Ray did not take it)                │
      └──REQUEUE── STALLED <──STALL: error, silence, no progress─┘
      (its driver    └──EXHAUST: the third failure──> FAILED
       is seen ended; it is admitted when the delay between attempts is over)

      the driver's ends:  SUCCEED, FAIL, CANCEL_DRIVEN
      the owner's:        CANCEL_WAITING at once; else the supervisor's CANCEL_ENDED when the driver
                          is seen ended
      RESUME:             FAILED, CANCELLED ──> QUEUED, with failures counted anew

A job's state is written here and nowhere else. A transition names its sources in its UPDATE, so
of two that meet the second finds nothing to change, and tells it by returning None.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.execution.jobs.documents import storable_document
from foundry.execution.jobs.domain import (
    ACTIVE,
    LEASED,
    MAX_FAILURES,
    WAITING,
    JobState,
    Phase,
    retry_delay_s,
    submission_id,
)
from foundry.execution.jobs.repository import Leases, from_now
from foundry.execution.jobs.tables import Job
from foundry.infra.database import utcnow


@dataclass(frozen=True, slots=True)
class Transition:
    """One kind of change: the states it may come from, and the one it leads to."""

    sources: frozenset[JobState]
    target: JobState


_S = JobState
# A driver has claimed it and works.
_WORKING = frozenset({_S.RUNNING, _S.CHECKPOINTING})

ADMIT = Transition(frozenset({_S.QUEUED}), _S.ADMITTED)
# From STARTING: an attempt of which nobody knows whether Ray took it is submitted again.
OPEN = Transition(frozenset({_S.ADMITTED, _S.STARTING}), _S.STARTING)
WITHDRAW = Transition(frozenset({_S.STARTING}), _S.ADMITTED)
# From ADMITTED: Ray took a driver whose attempt was withdrawn, because its answer was late.
CLAIM = Transition(LEASED | {_S.ADMITTED}, _S.RUNNING)
# By a driver without a Ray job, as a person starts it.
CLAIM_BY_HAND = Transition(LEASED | WAITING | {_S.STALLED}, _S.RUNNING)
TRAIN = Transition(_WORKING, _S.RUNNING)
CHECKPOINT = Transition(_WORKING, _S.CHECKPOINTING)
STALL = Transition(LEASED, _S.STALLED)
REQUEUE = Transition(frozenset({_S.STALLED}), _S.QUEUED)
EXHAUST = Transition(frozenset({_S.STALLED}), _S.FAILED)
SUCCEED = Transition(LEASED, _S.SUCCEEDED)
FAIL = Transition(LEASED, _S.FAILED)
CANCEL_DRIVEN = Transition(LEASED, _S.CANCELLED)
CANCEL_WAITING = Transition(WAITING, _S.CANCELLED)
CANCEL_ENDED = Transition(ACTIVE, _S.CANCELLED)
RESUME = Transition(frozenset({_S.FAILED, _S.CANCELLED}), _S.QUEUED)

TABLE: Mapping[str, Transition] = {
    "ADMIT": ADMIT,
    "OPEN": OPEN,
    "WITHDRAW": WITHDRAW,
    "CLAIM": CLAIM,
    "CLAIM_BY_HAND": CLAIM_BY_HAND,
    "TRAIN": TRAIN,
    "CHECKPOINT": CHECKPOINT,
    "STALL": STALL,
    "REQUEUE": REQUEUE,
    "EXHAUST": EXHAUST,
    "SUCCEED": SUCCEED,
    "FAIL": FAIL,
    "CANCEL_DRIVEN": CANCEL_DRIVEN,
    "CANCEL_WAITING": CANCEL_WAITING,
    "CANCEL_ENDED": CANCEL_ENDED,
    "RESUME": RESUME,
}


def begin_as_driver(job: Job, submission_id: str) -> None:
    """A new job whose first driver runs already: the Ray job that submits it."""
    job.state, job.attempt, job.submission_id = _S.STARTING.value, 1, submission_id
    job.heartbeat_at = job.submitted_at = utcnow()


class JobTransitions:
    """Carries transitions out, inside the caller's transaction.

    Every method returns the job as it is now, or None if it was in none of the transition's
    sources or did not have the fence or the name that the caller saw: then nothing has changed.
    """

    def __init__(self, db: AsyncSession) -> None:
        self._leases = Leases(db)

    async def admit(self, job_id: UUID) -> Job | None:
        return await self._carry_out(ADMIT, job_id, waiting_for=None, retry_at=None)

    async def open_attempt(self, job: Job, *, attempt: int) -> Job | None:
        """Make the attempt's row before Ray is asked for its driver.

        Args:
            attempt: a new one, or the one of which nobody knows whether Ray took it.
        """
        return await self._carry_out(
            OPEN,
            job.id,
            held=job.fence,
            # The driver of an earlier attempt, should one still live, can write no more.
            fence=Job.fence + 1,
            attempt=attempt,
            submission_id=submission_id(job.id, attempt),
            submitted_at=None,
            heartbeat_at=func.now(),
            phase=None,
            progress_at=None,
            waiting_for=None,
        )

    async def withdraw(self, job: Job, reason: str) -> Job | None:
        """Ray did not take the driver: the job keeps its place."""
        return await self._carry_out(WITHDRAW, job.id, held=job.fence, waiting_for=reason)

    async def claim(self, job_id: UUID, submission_id: str | None) -> Job | None:
        """A driver begins; see `JobLease.claim`."""
        return await self._carry_out(
            CLAIM if submission_id else CLAIM_BY_HAND,
            job_id,
            named=submission_id,
            fence=Job.fence + 1,
            heartbeat_at=func.now(),
            submitted_at=func.coalesce(Job.submitted_at, func.now()),
            started_at=func.coalesce(Job.started_at, func.now()),
            phase=Phase.PLACE,
            progress_at=func.now(),
            progress_allowance_s=None,
            waiting_for=None,
            error=None,
        )

    async def show_phase(
        self, job_id: UUID, fence: int, phase: Phase, allowance_s: float | None
    ) -> Job | None:
        """The attempt has made progress; while it writes a checkpoint, the job says so."""
        return await self._carry_out(
            CHECKPOINT if phase is Phase.CHECKPOINT else TRAIN,
            job_id,
            held=fence,
            heartbeat_at=func.now(),
            phase=phase,
            progress_at=func.now(),
            progress_allowance_s=allowance_s,
        )

    async def give_up(self, job_id: UUID, fence: int, error: Mapping[str, object]) -> Job | None:
        """The driver ends its attempt and keeps the lease, for its last words."""
        return await self._carry_out(
            STALL,
            job_id,
            held=fence,
            failures=Job.failures + 1,
            error=storable_document(error),
        )

    async def stall(self, job: Job, message: str, *, unless_heard: bool = False) -> Job | None:
        """The attempt is over without a word: its driver loses the lease.

        Args:
            unless_heard: a driver that has renewed its lease since `job` was read keeps it.
        """
        seen: dict[str, Any] = {"named": job.submission_id} if unless_heard else {}
        return await self._carry_out(
            STALL,
            job.id,
            held=job.fence,
            heard_at=job.heartbeat_at if unless_heard else None,
            fence=Job.fence + 1,
            failures=Job.failures + 1,
            error=storable_document(
                {"code": "engine_failed", "message": message, "attempt": job.attempt}
            ),
            **seen,
        )

    async def requeue_or_fail(self, listed: Job, error: Mapping[str, object]) -> Job | None:
        """The attempt's driver is seen ended: another one follows, or the job has failed.

        Args:
            error: what to tell where the attempt itself has told nothing.
        """
        told = storable_document({**error, **(listed.error or {})})
        over: dict[str, Any] = {
            "held": listed.fence,
            "fence": Job.fence + 1,
            "heartbeat_at": None,
            "phase": None,
            "progress_at": None,
        }
        if listed.failures < MAX_FAILURES:
            delay_s = retry_delay_s(listed.failures, random.uniform(-1, 1))
            return await self._carry_out(
                REQUEUE,
                listed.id,
                error=told,
                waiting_for=f"its next attempt, {delay_s:.0f} s after the one that failed",
                retry_at=from_now(delay_s),
                **over,
            )
        last = f"{told['message']}; it was the last of {listed.failures} attempts"
        return await self._carry_out(
            EXHAUST,
            listed.id,
            error={**told, "message": last},
            finished_at=func.now(),
            **over,
        )

    async def succeed(self, job_id: UUID, fence: int, result: Mapping[str, object]) -> Job | None:
        return await self._carry_out(
            SUCCEED,
            job_id,
            held=fence,
            finished_at=func.now(),
            result=storable_document(result),
        )

    async def fail(self, job_id: UUID, fence: int, error: Mapping[str, object]) -> Job | None:
        """The job cannot succeed, however often it is tried."""
        return await self._carry_out(
            FAIL, job_id, held=fence, finished_at=func.now(), error=storable_document(error)
        )

    async def cancel_driven(self, job_id: UUID, fence: int) -> Job | None:
        """The driver has stopped because it was asked to."""
        return await self._carry_out(CANCEL_DRIVEN, job_id, held=fence, finished_at=func.now())

    async def cancel_waiting(self, job_id: UUID) -> Job | None:
        """No driver runs: the owner's request takes effect at once."""
        return await self._carry_out(CANCEL_WAITING, job_id, finished_at=func.now())

    async def cancel_ended(self, listed: Job) -> Job | None:
        """The driver is seen ended, and the owner still wants the job to stop."""
        return await self._carry_out(
            CANCEL_ENDED,
            listed.id,
            named=listed.submission_id,
            cancelling=True,
            fence=Job.fence + 1,
            finished_at=func.now(),
        )

    async def resume(self, job_id: UUID) -> Job | None:
        """Queue a failed or cancelled job again; attempts are numbered on."""
        return await self._carry_out(
            RESUME,
            job_id,
            failures=0,
            cancel_requested=False,
            cancel_requested_at=None,
            error=None,
            finished_at=None,
            heartbeat_at=None,
            progress_at=None,
            phase=None,
            waiting_for=None,
            retry_at=None,
            collected_at=None,
        )

    async def _carry_out(self, transition: Transition, job_id: UUID, **how: Any) -> Job | None:
        return await self._leases.move(job_id, transition.sources, state=transition.target, **how)
