"""A whole fleet in one process: the reference that the distributed one equals bit for bit."""

from collections.abc import Callable, Sequence

from foundry.engines.training.diloco.config import Fragment, OuterConfig
from foundry.engines.training.diloco.replica import Replica, Values
from foundry.engines.training.learner import Learner


class LocalFleet:
    """Workers that take turns, and exchange what a network would carry."""

    def __init__(self, learners: Sequence[Learner], config: OuterConfig) -> None:
        self._config = config
        self.learners = learners
        self.replicas = [Replica(learner.parameters, config) for learner in learners]
        self.bytes_sent = 0
        """By each worker, so far; it receives as many."""

    @property
    def scatters(self) -> bool:
        return scatters(self._config, len(self.replicas))

    def run(
        self,
        steps: int,
        train: Callable[[int, int], None],
        committed: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Train `steps` inner steps and exchange on the way.

        The last round may be shorter, and exchanges the whole model, so that no fragment's last
        steps are lost.

        Args:
            train: takes one inner step: worker, number of the step.
            committed: told after each commit how many steps are done.
        """
        interval, overlap = self._config.interval, self._config.overlap
        pending: tuple[Fragment, Values] | None = None
        fragment = 0
        for done in range(1, steps + 1):
            for worker in range(len(self.replicas)):
                train(worker, done - 1)
            last = done == steps
            if pending is not None and (last or done % interval == overlap):
                self._commit(*pending)
                pending = None
                committed(done)
            if last or done % interval == 0:
                whole = last and self._config.fragments > 1
                part = None if whole else fragment
                pending = (part, self._exchange(part))
                fragment = (fragment + 1) % self._config.fragments
                if last or not overlap:
                    self._commit(*pending)
                    pending = None
                    committed(done)

    def _exchange(self, fragment: Fragment) -> Values:
        """The mean that all workers see; counts what it took."""
        count = len(self.replicas)
        parts = count if self.scatters else 1
        weights = [1.0] * count
        offers = [replica.offer(fragment, parts) for replica in self.replicas]
        cuts = self.replicas[0].cuts(fragment, parts)
        means = [
            self.replicas[part].reduce(fragment, cut, [offer[part] for offer in offers], weights)
            for part, cut in enumerate(cuts)
        ]
        if not self.scatters:
            self.bytes_sent += (count - 1) * len(offers[0][0])
            return means[0]
        forwarded = [
            self.replicas[part].forward(fragment, cut, mean)
            for part, (cut, mean) in enumerate(zip(cuts, means, strict=True))
        ]
        sent = sum(len(p) for p in offers[0][1:]) + (count - 1) * len(forwarded[0])
        self.bytes_sent += sent
        return self.replicas[0].assemble(fragment, forwarded)

    def _commit(self, fragment: Fragment, delta: Values) -> None:
        for replica in self.replicas:
            replica.commit(fragment, delta)


def scatters(config: OuterConfig, workers: int) -> bool:
    """Whether parts are shared out: 2(N-1)/N payloads instead of N-1, at a second rounding."""
    if config.exchange == "auto":
        return workers > 2
    return config.exchange == "scatter" and workers > 1
