"""One arm of the DiLoCo benchmark on separate hosts with slow links: bytes and utilisation.

Workers are actors of the product, each on a host of its own; the coordinator is on another host
without workers. Interface counters of the hosts see every frame, headers and acknowledgements
included. What went to or from the coordinator's host is the control plane. What is left is
compared with the payload bytes that the members count themselves.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from foundry.config import load_settings
from foundry.engines.training.diloco.config import OuterConfig
from foundry.execution.fleets.domain import FleetEvent, RoundRecord
from foundry.execution.workers.diloco.fleet import Placement, run_fleet
from tests.bench.byte_gpt import ByteGptSource, write_corpus
from tests.bench.fleet_runs import PacedSource, TimedLog, fleet_config, told
from tests.hosts.links import Counters, Link
from tests.hosts.nodes import Hosts, NodeSize, in_fresh_process, ray_hosts

_SOLO_STEPS = 20
# A round's traffic is over this long after its commit, and has not begun this long before its end.
_QUIET_AFTER_S, _QUIET_BEFORE_S = 1.0, 0.5
# Two workers have a core each; four share them, so a step is made to take longer than its part.
_CORES = 2
_CROWDED = 1.3


@dataclass(frozen=True, slots=True)
class WirePlan:
    """One run.

    Attributes:
        rounds: of which the first one is not measured.
        mbit_s: rate of each host's link, both ways.
        latency_ms: added to each way.
    """

    outer: OuterConfig
    workers: int = 2
    rounds: int = 5
    mbit_s: float = 100.0
    latency_ms: float = 0.0
    batch_size: int = 8
    length: int = 64


@dataclass(frozen=True, slots=True)
class Sample:
    """Counters of all hosts at one moment, on the monotonic clock."""

    at: float
    hosts: Counters
    head: Counters


@dataclass(slots=True)
class CountingLog(TimedLog):
    """Reads the counters at each commit, and in the quiet part of each round.

    Attributes:
        quiet_s: how long nothing but control is on the wire, from `_QUIET_AFTER_S` on.
    """

    hosts: Hosts | None = None
    quiet_s: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    quiet: list[tuple[Sample, Sample]] = field(default_factory=list)
    _watches: set[asyncio.Task[None]] = field(default_factory=set)

    async def commit(self, record: RoundRecord, events: Sequence[FleetEvent] = ()) -> None:
        await TimedLog.commit(self, record, events)
        if self.hosts is None or self.hosts.shared is not None:
            return
        self.samples.append(await asyncio.to_thread(sample, self.hosts))
        if self.quiet_s > 0:
            watch = asyncio.create_task(self._watch(self.hosts))
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)

    async def _watch(self, hosts: Hosts) -> None:
        await asyncio.sleep(_QUIET_AFTER_S)
        before = await asyncio.to_thread(sample, hosts)
        await asyncio.sleep(self.quiet_s)
        self.quiet.append((before, await asyncio.to_thread(sample, hosts)))


def sample(hosts: Hosts) -> Sample:
    at = time.monotonic()
    found = [hosts.counters(host) for host in hosts.nodes]
    total = sum((counters for counters in found if counters), Counters(0, 0))
    return Sample(at, total, hosts.counters(hosts.head) or Counters(0, 0))


def measure(plan: WirePlan, corpus: Path) -> dict[str, float | int | str | None]:
    """Run the plan on hosts of its own; without the privilege, counters are None."""
    return in_fresh_process(_measured, plan, corpus)


def _measured(plan: WirePlan, corpus: Path) -> dict[str, float | int | str | None]:
    interval = plan.outer.interval
    source = ByteGptSource(
        corpus, steps=plan.rounds * interval, batch_size=plan.batch_size, length=plan.length
    )
    solo_s = solo_step_s(source)
    crowd = max(1.0, plan.workers / _CORES) * (_CROWDED if plan.workers > _CORES else 1.0)
    step_s = solo_s * crowd
    link = Link(plan.mbit_s, plan.latency_ms)
    with ray_hosts(plan.workers, link, NodeSize(num_cpus=1)) as hosts:
        log = CountingLog(hosts=hosts, quiet_s=_quiet_s(interval * step_s))
        config = fleet_config(source, plan.outer, workers=plan.workers, silence_s=10.0)
        paced, alone = PacedSource(source, step_s), Placement(cpus=1)
        asyncio.run(run_fleet(paced, config, log, on_round=told, placement=alone))
        return {
            "workers": plan.workers,
            "inner_steps": plan.outer.inner_steps,
            "codec": plan.outer.codec.kind,
            "link_mbit_s": plan.mbit_s,
            "separate_hosts": "yes" if hosts.shared is None else f"no: {hosts.shared}",
            "step_s": round(step_s, 4),
            "solo_step_s": round(solo_s, 4),
            **times(log.rounds, interval * solo_s),
            **traffic(log),
        }


def solo_step_s(source: ByteGptSource) -> float:
    """Seconds of an inner step with one thread and nothing beside it."""
    import torch

    torch.set_num_threads(1)
    workload = source.open()
    seconds = []
    for number in range(_SOLO_STEPS):
        began = time.perf_counter()
        workload.learner.step(workload.batches(number), source.lr)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def times(rounds: Sequence[tuple[float, RoundRecord]], solo_s: float) -> dict[str, float]:
    """Training time over wall time, from the first commit on; a round that evaluates is left out.

    Args:
        solo_s: training time of a round where every worker has a core of its own.
    """
    timed = [
        (after - before, record)
        for (before, _), (after, record) in pairwise(rounds)
        if record.eval_loss is None
    ]
    walls = [wall for wall, _ in timed]
    training = [
        statistics.mean(share.train_seconds for share in record.members) for _, record in timed
    ]
    spent = [wall - train for wall, train in zip(walls, training, strict=True)]
    rounded = {
        "utilisation": sum(training) / sum(walls),
        "utilisation_own_cores": solo_s / (solo_s + statistics.mean(spent)),
        "round_s": statistics.mean(walls),
        "exchange_s": statistics.mean(spent),
    }
    return {name: round(value, 4) for name, value in rounded.items()}


def traffic(log: CountingLog) -> dict[str, float | None]:
    """Bytes of all workers, sent and received, from the first commit to the last."""
    measured = [share for _, record in log.rounds[1:] for share in record.members]
    analytic = sum(share.bytes_sent + share.bytes_received for share in measured)
    if len(log.samples) < 2:
        return {"analytic_bytes": analytic, "counter_vs_analytic": None}
    first, last = log.samples[0], log.samples[-1]
    counted = (last.hosts - first.hosts).total
    control = (last.head - first.head).total
    quiet = sum((b.hosts - a.hosts).total for a, b in log.quiet)
    quiet_s = sum(b.at - a.at for a, b in log.quiet)
    floor = quiet / quiet_s if quiet_s else None
    above_floor = counted - floor * (last.at - first.at) if floor is not None else None
    return {
        "analytic_bytes": analytic,
        "counted_bytes": counted,
        "control_bytes": control,
        "control_floor_bytes_per_s": round(floor) if floor is not None else None,
        "counter_vs_analytic": round((counted - control) / analytic, 4),
        "counter_above_floor_vs_analytic": (
            round(above_floor / analytic, 4) if above_floor is not None else None
        ),
    }


def _quiet_s(training_s: float) -> float:
    return max(0.0, training_s - _QUIET_AFTER_S - _QUIET_BEFORE_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mbit", type=float, default=100.0)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--outer", default='{"inner_steps": 100}', help="OuterConfig as JSON")
    arguments = parser.parse_args()
    outer = OuterConfig.model_validate_json(arguments.outer)
    corpus = load_settings().home / "bench" / "prose.txt"
    write_corpus(corpus)
    runs = []
    for workers in arguments.workers:
        plan = WirePlan(outer, workers, arguments.rounds, arguments.mbit, arguments.latency_ms)
        runs.append(measure(plan, corpus))
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"bench": "diloco_wire", "metrics": {"runs": runs}}))


if __name__ == "__main__":
    main()
