"""Settings of small fleets, and the run in one process that they must equal."""

from foundry.engines.training.diloco.config import (
    DilocoConfig,
    FleetConfig,
    InnerConfig,
    OuterConfig,
)
from foundry.engines.training.diloco.local import LocalFleet
from foundry.engines.training.schedule import learning_rate
from tests.fakes.fleet import TinyWorkload


def config(
    workers: int = 2, steps: int = 12, outer: dict[str, object] | None = None, **fleet: object
) -> DilocoConfig:
    inner = InnerConfig(max_steps=steps, lr=1e-2, warmup_ratio=0.2, batch_size=8)
    return DilocoConfig(
        inner=inner,
        outer=OuterConfig.model_validate({"inner_steps": 4, **(outer or {})}),
        fleet=FleetConfig.model_validate({"workers": workers, **fleet}),
    )


def local(config: DilocoConfig, steps: int) -> LocalFleet:
    """The same run, members taking turns."""
    workers, interval = config.fleet.workers, config.outer.interval
    workloads = [TinyWorkload(steps) for _ in range(workers)]
    fleet = LocalFleet([workload.learner for workload in workloads], config.outer)

    def train(worker: int, step: int) -> None:
        done, place = divmod(step, interval)
        width = min(interval, steps - done * interval)
        number = done * interval * workers + worker * width + place
        rate = learning_rate(
            float(step),
            peak=config.inner.lr,
            total_steps=steps,
            warmup_ratio=config.inner.warmup_ratio,
            kind=config.inner.schedule,
        )
        workload = workloads[worker]
        workload.learner.step(workload.batches(number), rate)

    fleet.run(steps, train)
    return fleet
