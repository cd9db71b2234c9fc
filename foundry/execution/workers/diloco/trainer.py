"""What a member does with its model, on the one thread that may touch it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from foundry.engines.training.diloco.config import DilocoConfig, Fragment
from foundry.engines.training.diloco.replica import GlobalState, Replica
from foundry.engines.training.schedule import learning_rate
from foundry.engines.training.workload import Workload
from foundry.execution.workers.diloco.messages import RoundPlan
from foundry.execution.workers.diloco.reducing import Update
from foundry.execution.workers.diloco.snapshots import OwnState, Work

T = TypeVar("T")
Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest step, for the live view.

    Attributes:
        batches: trained so far.
        loss: nats.
    """

    batches: int = 0
    loss: float | None = None
    tokens_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Offered:
    """What a member offers for a round.

    Attributes:
        payloads: one for each part.
        weight: tokens that moved what is in them, > 0.
    """

    payloads: list[bytes]
    weight: float


class Trainer:
    """Blocking calls; the caller keeps them on one thread.

    Attributes:
        round: the committed round that the global state is of.
        work: training that is in no committed round.
    """

    def __init__(self, workload: Workload, config: DilocoConfig) -> None:
        self._workload = workload
        self._config = config
        self._learner = workload.learner
        self.replica = Replica(self._learner.parameters, config.outer)
        self.round = 0
        self.work = Work()
        self._offered = Work()
        # Tokens that moved each fragment since it was last merged; and at the newest offer.
        self._unsent = [0] * config.outer.fragments
        self._sent = list(self._unsent)
        self.latest = Latest()

    @property
    def total_batches(self) -> int:
        """Batches of the whole fleet's run."""
        together = self._config.fleet.workers if self._config.inner.max_steps is not None else 1
        return self._workload.total_batches * together

    def step(self, number: int, place: float) -> None:
        """Train one batch.

        Args:
            place: in the learning-rate schedule, in steps.
        """
        began = time.perf_counter()
        outcome = self._learner.step(self._workload.batches(number), self._rate(place))
        seconds = time.perf_counter() - began
        self.work = self.work.plus(outcome.trained_tokens, outcome.loss, seconds)
        self._unsent = [tokens + outcome.trained_tokens for tokens in self._unsent]
        speed = outcome.tokens / max(seconds, 1e-9)
        self.latest = Latest(self.latest.batches + 1, outcome.loss, speed)

    def offer(self, plan: RoundPlan) -> Offered:
        """Everything that is not committed yet, in the plan's parts."""
        self._offered = self.work
        self._sent = list(self._unsent)
        return Offered(self.replica.offer(plan.fragment, plan.parts), self._weight(plan.fragment))

    def apply(self, update: Update, *, merged: bool) -> None:
        """Take an update that all agreed on.

        Args:
            merged: what was offered is in it.
        """
        self.replica.commit(update.fragment, update.delta, merged=merged)
        self.round = update.round
        if merged:
            self.work = self.work.minus(self._offered)
            for fragment in self._fragments(update.fragment):
                self._unsent[fragment] -= self._sent[fragment]
        self._offered = Work()

    def heal(self, state: GlobalState, round: int, *, keep_work: bool = False) -> None:
        """Stand where a healthy member does.

        Args:
            keep_work: it is offered with the next round; otherwise it is dropped.
        """
        self.replica.heal(state, keep_work=keep_work)
        self.round = round
        self._offered = Work()
        if not keep_work:
            self.work = Work()
            self._unsent = [0] * len(self._unsent)

    def evaluate(self, theta: Values) -> float | None:
        """Loss of outer parameters; the live ones are put back."""
        layout = self.replica.layout
        live = layout.read(self._learner.parameters)
        layout.write(theta, self._learner.parameters)
        try:
            return self._learner.evaluate(self._workload.evaluation())
        finally:
            layout.write(live, self._learner.parameters)

    def finish(self, use: Callable[[Workload], T]) -> T:
        """`use` sees the workload with the outer parameters in its model."""
        self.replica.write_outer(self._learner.parameters)
        return use(self._workload)

    def state(self, threads: int, plan: RoundPlan | None, done: int) -> OwnState:
        """A copy of everything that the others do not have."""
        return OwnState.of(
            self._learner,
            self.replica,
            round=self.round,
            work=self.work,
            unsent=self._unsent,
            threads=threads,
            plan=plan,
            done=done,
        )

    def load(self, own: OwnState, state: GlobalState) -> None:
        own.load_into(self._learner, self.replica, state)
        self.round, self.work, self._offered = own.round, own.work, Work()
        self._unsent = list(own.unsent)

    def _weight(self, fragment: Fragment) -> float:
        """Mean over the values that are offered; one that learnt nothing hardly counts."""
        bounds = self.replica.layout.bounds
        sizes = {f: bounds[f + 1] - bounds[f] for f in self._fragments(fragment)}
        moved = sum(size * self._unsent[f] for f, size in sizes.items())
        return max(moved / sum(sizes.values()), 1.0)

    def _fragments(self, fragment: Fragment) -> Sequence[int]:
        return range(len(self._unsent)) if fragment is None else (fragment,)

    def _rate(self, step: float) -> float:
        inner = self._config.inner
        return learning_rate(
            step,
            peak=inner.lr,
            total_steps=-(-self.total_batches // self._config.fleet.workers),
            warmup_ratio=inner.warmup_ratio,
            kind=inner.schedule,
        )
