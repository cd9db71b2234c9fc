"""Converges running things on the desired state in PostgreSQL.

Level-triggered: each pass reads the rows and the cluster and offers one step for every difference,
so a missed event or a restart costs a pass and never a fact. The passes only list; each thing's
step is a task of its own (`tasks`). One supervisor acts, under a lease; others wait for it. Its
heartbeat tells those outside whether the loop turns and the passes end.

A pass or chore, each in a task of its own:

    due ──lease held──▶ turn ──ended, failed, or cancelled at its deadline──▶ due after its period
     └──no lease──▶ waits, asks again within a second
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from foundry.errors import DatabaseUnavailable, LeaseLost, Unavailable
from foundry.infra.database import Database
from foundry.infra.embedded.heartbeat import Heartbeat
from foundry.supervisor.decisions import Limits
from foundry.supervisor.endpoints import EndpointReconciler, LeasedRows
from foundry.supervisor.jobs import JobReconciler
from foundry.supervisor.lease import RENEW_S, TTL_S, Lease, read_boot_clock
from foundry.supervisor.ports import EngineHost, JobLauncher

log = logging.getLogger(__name__)

PERIOD_S = 1.0
# A pass only lists and offers: a few queries and one look at the cluster.
PASS_DEADLINE_S = 60.0
# What a chore does beside (objects to list, windows to close) is bounded in number.
CHORE_DEADLINE_S = 900.0
# A cancelled command tells PostgreSQL so on another connection, which has 10 s to be made, and
# whatever it had borrowed is given back. A pass that still has not ended then never will.
_CANCEL_S = 30.0
# A loop that does not turn for as long as its lease lasts has lost it: it does not act.
_BEAT_DUE_S = TTL_S
_BEAT_S = RENEW_S
# Turns that a chore may miss before it is overdue: one may fail, one may be slow.
_MISSED_TURNS = 3
# Short periods are not measured against a busy machine's hiccups.
_LEAST_OVERDUE_S = 60.0


@dataclass(frozen=True, slots=True)
class Chore:
    """Work beside the reconciling, every so many seconds; a failure waits for the next turn.

    Attributes:
        deadline_s: of one turn; one that hangs fails by it.
    """

    name: str
    step: Callable[[], Awaitable[object]]
    period_s: float
    deadline_s: float = CHORE_DEADLINE_S

    @property
    def overdue_s(self) -> float:
        """Without a success for so long, somebody has to look."""
        return max(_MISSED_TURNS * self.period_s, _LEAST_OVERDUE_S)


@dataclass(slots=True)
class Punctuality:
    """When a repeated step last succeeded.

    Attributes:
        since: when it began to be due, or last succeeded.
        alerted: an alert was logged since then.
        turn_since: when the turn that runs began; None: none does.
    """

    chore: Chore
    since: float
    succeeded: bool = False
    alerted: bool = False
    turn_since: float | None = None

    def note_success(self, now: float) -> None:
        """Its turn ended well."""
        if self.alerted:
            log.warning("%s succeeds again", self.chore.name)
        self.since, self.succeeded, self.alerted = now, True, False

    def note_waiting(self, now: float) -> None:
        """It is another supervisor's turn: nothing is due here."""
        self.since, self.alerted = now, False

    def is_stuck(self, now: float) -> bool:
        """Whether its turn has outlasted its deadline without ending."""
        if self.turn_since is None:
            return False
        return now - self.turn_since > self.chore.deadline_s + _CANCEL_S

    def check_overdue(self, now: float) -> bool:
        """Whether it is overdue; says so once."""
        late = now - self.since > self.chore.overdue_s
        if late and not self.alerted:
            self.alerted = True
            log.error(
                "ALERT: %s has not succeeded for %.0f s; it is due every %.0f s",
                self.chore.name,
                now - self.since,
                self.chore.period_s,
            )
        return late


class Supervisor:
    """One of a cluster acts; see `lease`."""

    def __init__(
        self,
        database: Database,
        launcher: JobLauncher,
        engines: EngineHost,
        limits: Limits,
        clock: Callable[[], float] = read_boot_clock,
        chores: Sequence[Chore] = (),
        beat: Callable[[Heartbeat], None] | None = None,
    ) -> None:
        """Made once per process; `run` does the work.

        Args:
            limits: how long a revision may take until its engine answers, and a stop may drain.
            chores: work beside the two passes.
            beat: puts a heartbeat where others find it; blocking, may raise OSError.
        """
        self._clock = clock
        self._beat = beat
        self.lease = Lease(database, clock=clock)
        self.jobs = JobReconciler(database, launcher, self.lease, clock)
        self.endpoints = EndpointReconciler(
            LeasedRows(database, self.lease), engines, limits, clock
        )
        passes = (
            Chore("jobs", self.jobs.reconcile, PERIOD_S, PASS_DEADLINE_S),
            Chore("endpoints", self.endpoints.reconcile, PERIOD_S, PASS_DEADLINE_S),
        )
        names = [chore.name for chore in (*passes, *chores)]
        if len(set(names)) < len(names):
            raise ValueError(f"two chores share a name, which would hide one's alert: {names}")
        self._watched = [Punctuality(chore, clock()) for chore in (*passes, *chores)]

    async def run(self) -> None:
        """Until cancelled; a pass that fails is logged and tried again."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_lease())
                group.create_task(self._watch_chores())
                if self._beat is not None:
                    group.create_task(self._keep_beating(self._beat))
                for punctuality in self._watched:
                    group.create_task(self._repeat_turns(punctuality))
        finally:
            await self.jobs.tasks.close()
            await self.endpoints.tasks.close()

    def status(self) -> dict[str, object]:
        """Whether it acts, and of every pass and chore the seconds since it last succeeded."""
        now = self._clock()
        return {
            "acts": self.lease.held,
            "chores": {
                each.chore.name: {
                    "succeeded_s_ago": now - each.since if each.succeeded else None,
                    "period_s": each.chore.period_s,
                    "overdue": now - each.since > each.chore.overdue_s,
                }
                for each in self._watched
            },
        }

    def take_heartbeat(self) -> Heartbeat:
        """What it says of itself now."""
        now = self._clock()
        stuck = tuple(each.chore.name for each in self._watched if each.is_stuck(now))
        # The reader's clock, whatever this supervisor goes by.
        return Heartbeat(os.getpid(), time.monotonic(), _BEAT_DUE_S, self.lease.held, stuck)

    async def _keep_beating(self, beat: Callable[[Heartbeat], None]) -> None:
        while True:
            try:
                await asyncio.to_thread(beat, self.take_heartbeat())
            except (OSError, RuntimeError):
                # The disk is broken, or no thread can be started. Those who wait for the beat
                # restart this supervisor, which is better than nobody acting.
                log.exception("the heartbeat could not be written; trying again")
            await asyncio.sleep(_BEAT_S)

    async def _keep_lease(self) -> None:
        while True:
            await self.renew_lease()
            await asyncio.sleep(RENEW_S)

    async def renew_lease(self) -> None:
        """Take or renew the lease once; whoever begins to act gives drivers time to renew theirs.

        What kept this supervisor from acting, an outage or another supervisor's death, may have
        kept the drivers from PostgreSQL, too.
        """
        acted = self.lease.held
        try:
            await self.lease.take_or_renew()
        except DatabaseUnavailable:
            self.jobs.note_outage()
            log.warning("the lease cannot be renewed: PostgreSQL cannot be reached")
        except Exception:
            # The loop outlives every fault: without a lease nothing is reconciled.
            self.jobs.note_outage()
            log.exception("the lease could not be renewed; trying again")
        else:
            # Before the next pass can see that it holds the lease.
            if self.lease.held and not acted:
                self.jobs.note_outage()

    async def _watch_chores(self) -> None:
        while True:
            for each in self._watched:
                each.check_overdue(self._clock())
            await asyncio.sleep(PERIOD_S)

    async def _repeat_turns(self, punctuality: Punctuality) -> None:
        chore = punctuality.chore
        while True:
            try:
                if self.lease.held:
                    punctuality.turn_since = self._clock()
                    async with asyncio.timeout(chore.deadline_s):
                        await chore.step()
                    punctuality.note_success(self._clock())
                else:
                    punctuality.note_waiting(self._clock())
            except DatabaseUnavailable:
                self.jobs.note_outage()
                log.warning("PostgreSQL cannot be reached; trying again")
            except (LeaseLost, Unavailable) as error:
                # What a library raised is worth its traceback, our own sentence is not.
                log.warning("%s: %s", chore.name, error.message, exc_info=error.__cause__)
            except Exception:
                # The loop outlives every fault of a pass: the next one starts from the facts again.
                log.exception("%s failed; trying again", chore.name)
            finally:
                punctuality.turn_since = None
            # A chore that waits for the lease must not sleep through its first turn.
            await asyncio.sleep(chore.period_s if self.lease.held else min(chore.period_s, 1.0))
