"""What every driver of a job does, whatever does the work.

The heart is a task of its own: it renews the lease every 10 s whatever the work waits for, tells
whether the job shall be cancelled, and ends the work when the lease is lost or nothing moves.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from foundry.catalog.registry.domain import VersionSpec
from foundry.config import Settings
from foundry.errors import DatabaseUnavailable, EngineFailed
from foundry.execution.jobs.domain import Phase, allowed_silence_s
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.service import Job
from foundry.execution.workers.messages import Publication, Published
from foundry.infra.database import Database

T = TypeVar("T")

POLL_S = 1.0
BEAT_S = 10.0
# Of a beat that failed or hung: the lease of 30 s survives an outage of almost that length.
_RETRY_S = 1.0
_BEAT_DEADLINE_S = 5.0
_DUMP_DEADLINE_S = 5.0

log = logging.getLogger(__name__)


class Vitals:
    """What the work tells its heart: the phase, and that something new happened.

    Attributes:
        cancel_requested: the job shall stop.
        dump_stacks: what the workers are doing, for the log of a hung job.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase = Phase.PLACE
        self._marker: object = None
        self._allowed: float | None = None
        self._since = clock()
        self._untold = True
        self._changed = asyncio.Event()
        self.cancel_requested = False
        self.dump_stacks: Callable[[], Awaitable[str]] | None = None

    def observe(self, phase: Phase, marker: object = None, step_s: float | None = None) -> None:
        """Note where the work is.

        Args:
            marker: another value than before: there is progress.
            step_s: moving time of an optimiser step.
        """
        if phase is not self._phase:
            self._changed.set()
        elif marker == self._marker:
            return
        self._phase, self._marker = phase, marker
        self._allowed = allowed_silence_s(phase, step_s)
        self._since, self._untold = self._clock(), True

    def take_news(self) -> tuple[Phase, float | None] | None:
        """Phase and allowance, if something is new since the last call."""
        news = (self._phase, self._allowed) if self._untold else None
        self._untold = False
        return news

    def put_back_news(self) -> None:
        """What was taken could not be told."""
        self._untold = True

    @property
    def overdue(self) -> str | None:
        """Why the work counts as hung; None: it does not."""
        silent = self._clock() - self._since
        if self._allowed is None or silent <= self._allowed:
            return None
        return (
            f"nothing new for {silent:.0f} s in the phase {self._phase.value!r}, where "
            f"{self._allowed:.0f} s are allowed: it hung"
        )

    async def wait(self, seconds: float) -> None:
        """Until the phase changes, or so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return
        self._changed.clear()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at one job, and the lease that it holds."""

    settings: Settings
    database: Database
    lease: JobLease
    job: Job
    vitals: Vitals = field(default_factory=Vitals)

    async def show(self, progress: dict[str, object] | None = None) -> None:
        """Show how far the job is, and hear whether it shall stop; an outage only delays it.

        Raises:
            LeaseLost: another attempt has taken over.
        """
        try:
            self.vitals.cancel_requested |= await self.lease.heartbeat(progress)
        except DatabaseUnavailable:
            log.warning("PostgreSQL cannot be reached; showing progress later")

    async def say(self, text: str) -> None:
        """Write a line to the job's log, with the time."""
        await self.lease.log(f"{datetime.now(UTC):%H:%M:%S} {text}\n")

    async def say_if_unmeasured(self, eval_rows: int) -> None:
        """A dataset may hold nothing out: then there is no eval loss, and the log says why."""
        if eval_rows == 0:
            await self.say("the dataset holds no rows out: no eval loss is measured")

    def publication(self, spec: VersionSpec) -> Publication:
        job = self.job
        return Publication(job.tenant_id, job.project_id, job.id, self.lease.fence, spec)

    async def finish(
        self,
        published: Published,
        metrics: dict[str, float],
        details: Mapping[str, object] | None = None,
    ) -> None:
        """The job has succeeded with this version.

        Args:
            details: what the result says besides.
        """
        result: dict[str, object] = {
            "version_id": str(published.version_id),
            "model": published.reference,
            "digest": published.digest,
            "metrics": metrics,
            **(details or {}),
        }
        await write_until_accepted(lambda: self.lease.finish(result))


async def run_with_heartbeat(attempt: Attempt, work: Awaitable[T]) -> T:
    """What `work` returns, with the lease renewed meanwhile.

    Raises:
        LeaseLost: another attempt has taken over; the work is cancelled.
        EngineFailed: the work hung; it is cancelled.
    """
    working = asyncio.ensure_future(work)
    beating = asyncio.ensure_future(_beat(attempt))
    try:
        await asyncio.wait({working, beating}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            await beating
        return await working
    finally:
        working.cancel()
        beating.cancel()
        await asyncio.gather(working, beating, return_exceptions=True)


async def _beat(attempt: Attempt) -> None:
    vitals = attempt.vitals
    while True:
        pause = BEAT_S if await _tell(attempt) else _RETRY_S
        if (reason := vitals.overdue) is not None:
            await _log_stacks(attempt)
            raise EngineFailed(f"attempt {attempt.job.attempt} showed {reason}")
        await vitals.wait(pause)


async def _tell(attempt: Attempt) -> bool:
    """One beat. Returns whether PostgreSQL took it."""
    vitals, lease = attempt.vitals, attempt.lease
    news = vitals.take_news()
    try:
        async with asyncio.timeout(_BEAT_DEADLINE_S):
            vitals.cancel_requested |= await lease.heartbeat()
            if news is not None:
                await lease.advance(*news)
    except (DatabaseUnavailable, TimeoutError):
        log.warning("the lease of job %s could not be renewed; trying again", attempt.job.id)
        if news is not None:
            vitals.put_back_news()
        return False
    return True


async def _log_stacks(attempt: Attempt) -> None:
    if attempt.vitals.dump_stacks is None:
        return
    try:
        async with asyncio.timeout(_DUMP_DEADLINE_S):
            await attempt.say("it hangs here:\n" + await attempt.vitals.dump_stacks())
    except Exception:
        # The stacks are a help: whatever keeps a hung worker from telling them changes nothing.
        log.warning("the stacks of job %s cannot be had", attempt.job.id, exc_info=True)


async def write_until_accepted(write: Callable[[], Awaitable[None]]) -> None:
    """Write an end of the job or the attempt, also through an outage of PostgreSQL.

    Raises:
        LeaseLost: the outage was longer than the lease, and another attempt has taken over.
    """
    while True:
        try:
            await write()
        except DatabaseUnavailable:
            log.warning("PostgreSQL cannot be reached; the job's end is written later")
            await asyncio.sleep(POLL_S)
        else:
            return
