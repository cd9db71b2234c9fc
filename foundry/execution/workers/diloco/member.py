"""One worker of a fleet: trains its shards, offers what it learnt, takes what all agreed on.

The coordinator tells it what to do; it decides nothing. Whatever touches the live parameters runs
on one thread, in order, so that training, commits and snapshots never meet in the middle of a step.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from foundry.engines.training.diloco.config import DilocoConfig
from foundry.engines.training.diloco.replica import GlobalState
from foundry.engines.training.workload import Workload
from foundry.errors import (
    Conflict,
    EngineFailed,
    InvalidArtifact,
    ResourceExhausted,
    Unavailable,
)
from foundry.execution.workers.diloco.messages import (
    CommitOrder,
    Committed,
    Loan,
    MemberState,
    Offer,
    Parcel,
    Ready,
    Reduction,
    Resumed,
    RoundPlan,
    Snapshot,
    Status,
    Vote,
)
from foundry.execution.workers.diloco.reducing import Reducer, Update
from foundry.execution.workers.diloco.snapshots import OwnState, Snapshots
from foundry.execution.workers.diloco.trainer import Trainer
from foundry.execution.workers.diloco.transport import Courier

T = TypeVar("T")
Values = NDArray[np.float32]
FailPoint = Callable[[str], Awaitable[None]]


class WorkloadSource(Protocol):
    """Where a member gets its workload; it is sent to the worker, so it must be picklable."""

    def open(self) -> Workload:
        """The model and its batches: the same on every member, bit for bit.

        With `inner.max_steps` set the fleet trains `total_batches` times the workers, otherwise
        `total_batches` together.
        """


async def unharmed(point: str) -> None:
    """The hook of a member that nobody tests."""


@dataclass(slots=True)
class _Assignment:
    """The plan a member is on."""

    plan: RoundPlan
    done: int = 0
    halted: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.ended.set()


class Member:
    """Plain logic; an actor or a test calls it from one event loop.

    Args:
        threads: for arithmetic on the CPU.
        snapshots: where checkpoints go; None: there are none.
        reached: told of each point where a crash matters, for tests.
    """

    def __init__(
        self,
        name: str,
        source: WorkloadSource,
        config: DilocoConfig,
        courier: Courier,
        *,
        threads: int = 1,
        snapshots: Snapshots | None = None,
        reached: FailPoint = unharmed,
    ) -> None:
        self.name = name
        self._source = source
        self._config = config
        self._courier = courier
        self._threads = threads
        self._snapshots = snapshots
        self._reached = reached
        self._thread = ThreadPoolExecutor(1, f"member-{name}", torch.set_num_threads, (threads,))
        self._state: MemberState = "joining"
        self._assignment: _Assignment | None = None
        self._events: dict[tuple[str, int], asyncio.Event] = {}
        self._kept: dict[int, tuple[Parcel, ...]] = {}
        self._update: Update | None = None
        self._exchange: asyncio.Future[Any] | None = None

    async def prepare(self) -> Ready:
        """Load the workload. Raises what opening it raises."""
        workload: Workload = await self._run(self._source.open)
        self._trainer = await self._run(lambda: Trainer(workload, self._config))
        self.replica = self._trainer.replica
        self._reducer = Reducer(self.name, self.replica, self._config.outer, self._courier)
        self._be("waiting")
        return await self.standing()

    async def standing(self) -> Ready:
        """Where the member stands now."""
        trainer = self._trainer
        digest = await asyncio.to_thread(trainer.replica.state.digest)
        return Ready(digest, trainer.round, trainer.total_batches, self._threads)

    def status(self) -> Status:
        """May be called from any thread, at any time."""
        traffic = self._courier.traffic
        if self._state == "joining":
            return Status()
        latest = self._trainer.latest
        return Status(
            state=self._state,
            round=self._trainer.round,
            moved=latest.batches + traffic.received + traffic.healed,
            batches=latest.batches,
            loss=latest.loss,
            tokens_per_second=latest.tokens_per_second,
            sent=traffic.sent,
            received=traffic.received,
            healed=traffic.healed,
        )

    async def train(self, plan: RoundPlan) -> Offer:
        """Train the plan's shards and offer what came of it.

        Raises:
            Conflict: it was halted.
            EngineFailed: the loss is not finite.
        """
        assignment = self._assignment
        if assignment is None or assignment.plan != plan or assignment.halted:
            assignment = self._assignment = _Assignment(plan)
        assignment.ended.clear()
        self._be("training")
        try:
            await self._train(assignment)
            return await self._offer(plan)
        finally:
            assignment.ended.set()

    async def halt(self) -> None:
        """End the training before its next step; the plan and its place in it are kept."""
        if self._assignment is not None:
            self._assignment.halted = True
            self._event("barrier", self._assignment.plan.round).set()
            self._event("settled", self._assignment.plan.round - 1).set()
            await self._assignment.ended.wait()
        self._be("waiting")

    async def share(self, reduction: Reduction) -> tuple[Parcel, ...] | Vote:
        """Average the parts that are this member's to reduce; a vote says why it could not."""
        self._be("reducing")
        await self._reached("in_share")
        return await self._exchanging(self._reducer.share(reduction))

    async def reduce(self, reduction: Reduction, forwarded: tuple[Parcel, ...] | None) -> Vote:
        """Make the round's update in scratch space and vote on it.

        Args:
            forwarded: the averaged parts; None: every member averages everything.
        """
        self._be("reducing")
        await self._reached("in_reduce")
        outcome = await self._exchanging(self._reducer.update(reduction, forwarded))
        await self._reached("before_vote")
        loss = None
        if isinstance(outcome, Update):
            self._update = outcome
            if reduction.evaluator == self.name:
                loss = await self._run(partial(self._trainer.evaluate, outcome.after.theta))
        training = self._assignment is not None and not self._assignment.ended.is_set()
        self._be("training" if training else "waiting")
        if isinstance(outcome, Vote):
            return outcome
        traffic = self._courier.traffic
        return Vote(self.name, outcome.digest, "", (), loss, traffic.sent, traffic.received)

    async def abandon(self) -> None:
        """Stop pulling: the round is tried again without someone."""
        if self._exchange is not None:
            self._exchange.cancel()

    async def commit(self, order: CommitOrder) -> Committed:
        """Take the update that was voted on.

        Raises:
            Conflict: there is none for that round.
        """
        update = self._update
        if update is None or update.round != order.round:
            raise Conflict(f"{self.name} has no update for round {order.round}: it must be healed")
        if order.overlap:
            await self._event("barrier", order.round + 1).wait()
        await self._reached("before_commit")
        await self._run(lambda: self._trainer.apply(update, merged=order.merged))
        self._update = None
        await self._reached("after_commit")
        snapshot, problem = None, ""
        if order.snapshot:
            try:
                snapshot = await self.snapshot(order.with_global)
            except (ResourceExhausted, Unavailable) as error:
                # The fleet goes on, and an older checkpoint stays; the next one may fit again.
                problem = error.message
        self._settle(order.round)
        digest = await asyncio.to_thread(self.replica.state.digest)
        return Committed(digest, snapshot, problem)

    async def lend(self) -> Loan:
        """Put the global state out for one that heals."""
        state = self.replica.state.copy()
        theta, velocity = await asyncio.gather(
            *(
                asyncio.to_thread(self._courier.put, values.tobytes())
                for values in (state.theta, state.velocity)
            )
        )
        self._kept[-1] = (theta, velocity)
        digest = await asyncio.to_thread(state.digest)
        return Loan(self._trainer.round, theta, velocity, digest)

    async def heal(self, loan: Loan, *, keep_work: bool = False) -> Ready:
        """Take over a healthy member's global state; own work is dropped or offered next.

        Returns:
            Where it stands then: where it stood before, if the state could not be had.
        """
        await self.halt()
        self._be("healing")
        await self._reached("in_heal")
        try:
            theta, velocity = [
                np.frombuffer(await self._courier.pull(parcel, "heal"), np.float32)
                for parcel in (loan.theta, loan.velocity)
            ]
        except (InvalidArtifact, Unavailable):
            # The lender is gone: another one can lend it.
            self._be("waiting")
            return await self.standing()
        state = GlobalState(theta, velocity)
        if await asyncio.to_thread(state.digest) == loan.digest:
            await self._run(lambda: self._trainer.heal(state, loan.round, keep_work=keep_work))
            self._start_over()
        self._be("waiting")
        return await self.standing()

    async def snapshot(self, with_global: bool) -> Snapshot:
        """Keep the state as it is now; within a round, call `halt` first."""
        own = await self._run(self._own_state)
        await self._reached("in_checkpoint")
        state = self.replica.state.copy() if with_global else None
        return await self._store.write(own, state, self._config.digest())

    async def restore(self, snapshot: Snapshot) -> Resumed:
        """Go back to a checkpoint.

        Raises:
            InvalidArtifact: it is damaged, or of another run.
            NotFound: the object store has lost it.
        """
        await self._reached("in_restore")
        own, state = await self._store.read(snapshot, self._config.digest())
        await self._run(lambda: self._trainer.load(own, state))
        # Resuming goes on with the arithmetic that the run began with.
        self._threads = own.threads
        await self._run(lambda: torch.set_num_threads(own.threads))
        self._start_over()
        if own.plan is not None:
            self._assignment = _Assignment(own.plan, own.done)
        return Resumed(await asyncio.to_thread(self.replica.state.digest), own.plan)

    async def finish(self, use: Callable[[Workload], T]) -> T:
        """Give the workload with the outer parameters in its model to `use`, on its thread."""
        return await self._run(lambda: self._trainer.finish(use))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _train(self, assignment: _Assignment) -> None:
        plan = assignment.plan
        numbers = plan.numbers
        overlap = min(plan.overlap, len(numbers))
        while True:
            if assignment.done >= overlap:
                self._event("barrier", plan.round).set()
                await self._behind(plan.round - 1)
            if assignment.halted:
                raise Conflict(f"{self.name} was halted in round {plan.round}")
            if assignment.done == len(numbers):
                return
            await self._reached("in_train")
            place = plan.first_step + assignment.done * plan.stride
            await self._run(partial(self._trainer.step, numbers[assignment.done], place))
            assignment.done += 1

    async def _behind(self, round: int) -> None:
        """Wait until a round is committed here."""
        if self._trainer.round < round:
            self._be("waiting")
            await self._event("settled", round).wait()
            self._be("training")

    async def _offer(self, plan: RoundPlan) -> Offer:
        work = self._trainer.work
        if not np.isfinite(work.loss_sum):
            raise EngineFailed(f"the loss of {self.name} is not finite: lower inner.lr")
        self._be("offering")
        await self._reached("before_offer")
        offered = await self._run(lambda: self._trainer.offer(plan))
        parcels = await asyncio.to_thread(lambda: tuple(map(self._courier.put, offered.payloads)))
        self._kept[plan.round] = parcels
        self._reducer.remember(offered.payloads)
        await self._reached("after_offer")
        self._be("waiting")
        return Offer(
            self.name,
            plan.round,
            parcels,
            offered.weight,
            work.batches,
            work.tokens,
            work.loss_sum / max(work.batches, 1),
            work.seconds,
        )

    async def _exchanging(self, work: Awaitable[T]) -> T | Vote:
        """Can be abandoned; then the vote is no."""
        task = asyncio.ensure_future(work)
        self._exchange = task
        try:
            return await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            return Vote(self.name, error="abandoned")
        finally:
            self._exchange = None

    def _settle(self, round: int) -> None:
        """Let training go on, and forget what nobody can ask for any more."""
        self._event("settled", round).set()
        self._events = {key: event for key, event in self._events.items() if key[1] >= round}
        self._kept = {key: kept for key, kept in self._kept.items() if key >= round}
        if self._assignment is None or self._assignment.plan.round <= round:
            self._assignment = None
            self._be("waiting")

    def _start_over(self) -> None:
        """With no work of one's own."""
        self._assignment = self._update = None
        self._events.clear()

    def _own_state(self) -> OwnState:
        assignment = self._assignment
        if assignment is None or assignment.plan.round <= self._trainer.round:
            return self._trainer.state(self._threads, None, 0)
        return self._trainer.state(self._threads, assignment.plan, assignment.done)

    @property
    def _store(self) -> Snapshots:
        if self._snapshots is None:
            raise Conflict("this fleet was started without a place for checkpoints")
        return self._snapshots

    def _be(self, state: MemberState) -> None:
        self._state = state

    def _event(self, kind: str, round: int) -> asyncio.Event:
        """Whoever comes first makes it: messages may overtake each other."""
        return self._events.setdefault((kind, round), asyncio.Event())

    async def _run(self, call: Callable[[], T]) -> T:
        """On the member's own thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
