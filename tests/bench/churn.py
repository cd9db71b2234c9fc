"""`make bench NAME=churn`: a fleet that loses a worker a minute and gains one every two minutes.

Four hosts, one worker each, on 100 Mbit/s links; first a calm run, then one with losses on the
same batches. Losses take turns: a machine vanishes with its network (nobody closes a connection),
or its worker gets a SIGKILL. The fleet replaces the killed worker by itself, on the same host; a
vanished host is replaced only by the join, a new machine, ten seconds later. So three or four
workers are alive all the time. Steps take a fixed time, so that a worker is not faster because
another one is dead.

Where machines cannot be made, workers share one, only SIGKILLs happen, and the result says so.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from foundry.config import load_settings
from foundry.engines.training.diloco.config import DilocoConfig, E3m0, OuterConfig
from foundry.execution.workers.diloco.accounts import FleetResult
from foundry.execution.workers.diloco.fleet import Placement, run_fleet
from foundry.execution.workers.diloco.messages import FleetProgress
from tests.bench import churn_account as account
from tests.bench.byte_gpt import ByteGptSource, write_corpus
from tests.bench.churn_account import Life
from tests.bench.fleet_runs import PacedSource, TimedLog, fleet_config, told
from tests.hosts.links import Link
from tests.hosts.nodes import Host, NodeSize, OneHost, SeparateHosts, in_fresh_process, ray_hosts

WORKERS = 4
# Well above what the arithmetic takes while four workers share two cores.
STEP_S = 0.4
STEPS = 392
OUTER = OuterConfig(inner_steps=14, codec=E3m0())
SILENCE_S = 3.0
LINK = Link(mbit_s=100.0)
# The worker of a lost host waits for the next host: it does not crowd another one.
WHOLE_HOST = Placement(cpus=1)
_LOOK_S = 0.25
_USUAL = ("joined", "healed")
GOALS = {"loss_gap": 0.01, "step_efficiency": 0.9, "corrupt_commits": 0.0, "rejoin_s": 60.0}

Kind = Literal["vanish", "join", "kill"]
# Seconds after the run's begin: one loss a minute, one join in two.
SCHEDULE: tuple[tuple[float, Kind], ...] = (
    (20, "vanish"),
    (30, "join"),
    (80, "kill"),
    (140, "vanish"),
    (150, "join"),
)


@dataclass(frozen=True, slots=True)
class Rejoin:
    """A worker is wanted at a host.

    Attributes:
        at: since when, on the monotonic clock.
        known: members that do not count, because they were there before.
    """

    at: float
    kind: Kind
    address: str
    known: frozenset[str]


@dataclass(frozen=True, slots=True)
class Living:
    """A worker that takes part; `node` is Ray's id."""

    member: str
    node: str
    pid: int


@dataclass(slots=True)
class Disturbance:
    """Carries out the schedule and remembers what it did."""

    hosts: SeparateHosts | OneHost
    log: TimedLog
    killed: dict[str, float] = field(default_factory=dict)
    rejoins: list[Rejoin] = field(default_factory=list)
    vanished: list[tuple[float, str, str]] = field(default_factory=list)
    """When, which host, which member."""
    stock_notice_s: list[float] = field(default_factory=list)
    _observers: list[asyncio.Task[None]] = field(default_factory=list)
    _live: list[Living] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    async def run(self) -> None:
        """Until cancelled, from the first commit on: before it nobody trains at full speed."""
        await self.log.begun.wait()
        began = account.began(self.log.rounds)
        actions: dict[Kind, Callable[[], Awaitable[None]]] = {
            "vanish": self._vanish,
            "join": self._join,
            "kill": self._kill,
        }
        for after, kind in SCHEDULE:
            await asyncio.sleep(max(0.0, began + after - time.monotonic()))
            if self.hosts.shared is None or kind == "kill":
                await actions[kind]()

    async def observed(self, timeout_s: float) -> None:
        """Give Ray's own detector some time to notice."""
        if self._observers:
            await asyncio.wait(self._observers, timeout=timeout_s)
        self._over.set()
        await asyncio.gather(*self._observers)

    def see(self, progress: FleetProgress) -> None:
        """Note who trains where, as of a second ago at most."""
        self._live = [
            Living(str(one["member"]), str(one["node"]), pid)
            for one in progress.fleet
            if one["state"] not in ("joining", "healing") and isinstance(pid := one["pid"], int)
        ]

    async def _vanish(self) -> None:
        host, worker = self._victim()
        at = time.monotonic()
        await asyncio.to_thread(self.hosts.lose, host)
        self.killed[worker.member] = at
        self.vanished.append((at, host.name, worker.member))
        observe = asyncio.to_thread(self._observe, host.name, at)
        self._observers.append(asyncio.create_task(observe))
        _say(f"{host.name} vanished with {worker.member}")

    async def _kill(self) -> None:
        host, worker = self._victim()
        known = {share.member for _, record in self.log.rounds for share in record.members}
        at = time.monotonic()
        os.kill(worker.pid, signal.SIGKILL)
        self.killed[worker.member] = at
        self.rejoins.append(Rejoin(at, "kill", host.address, frozenset(known)))
        _say(f"{worker.member} on {host.name} killed")

    async def _join(self) -> None:
        at = time.monotonic()
        host = await asyncio.to_thread(self.hosts.add)
        self.rejoins.append(Rejoin(at, "join", host.address, frozenset()))
        _say(f"{host.name} is to join")

    def _victim(self) -> tuple[Host, Living]:
        """The host that has been there longest and has a worker that takes part."""
        places = node_addresses()
        found = {places[worker.node]: worker for worker in self._live if _exists(worker.pid)}
        host = next(host for host in self.hosts.nodes if host.address in found)
        return host, found[host.address]

    def _observe(self, name: str, since: float) -> None:
        """Until Ray itself knows that the node is gone, or nobody waits for that any more."""
        while not self._over.wait(_LOOK_S):
            if name not in living_nodes():
                self.stock_notice_s.append(time.monotonic() - since)
                return


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def living_nodes() -> set[str]:
    """Names of the nodes that Ray believes in."""
    import ray

    return {node["NodeName"] for node in ray.nodes() if node["Alive"]}


def node_addresses() -> dict[str, str]:
    """Of all nodes that Ray has known, by their ids."""
    import ray

    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}


def measure(corpus: Path) -> dict[str, float | int | str | None]:
    """Both runs, in a process of their own."""
    return in_fresh_process(_measured, corpus)


def _measured(corpus: Path) -> dict[str, float | int | str | None]:
    source = PacedSource(ByteGptSource(corpus, steps=STEPS, batch_size=4), STEP_S)
    config = fleet_config(source.source, OUTER, workers=WORKERS, silence_s=SILENCE_S)
    with ray_hosts(WORKERS, LINK, NodeSize(num_cpus=1)) as hosts:
        calm, stormy = TimedLog(), TimedLog()
        calm_result = asyncio.run(
            run_fleet(source, config, calm, on_round=told, placement=WHOLE_HOST)
        )
        _say(f"calm: {account.seconds(calm.rounds):.0f} s, loss {calm_result.eval_loss}")
        disturbance = Disturbance(hosts, stormy)
        result = asyncio.run(_disturbed(source, config, disturbance))
        _say(f"with losses: {account.seconds(stormy.rounds):.0f} s, loss {result.eval_loss}")
        shared, places = hosts.shared, node_addresses()
    return {
        **losses(calm_result, result),
        **summary(calm, stormy, disturbance, places),
        "separate_hosts": "yes" if shared is None else f"no: {shared}",
    }


async def _disturbed(
    source: PacedSource, config: DilocoConfig, disturbance: Disturbance
) -> FleetResult:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(disturbance.run())
        result = await run_fleet(
            source,
            config,
            disturbance.log,
            on_progress=disturbance.see,
            on_round=told,
            placement=WHOLE_HOST,
        )
        task.cancel()
    await disturbance.observed(timeout_s=20.0)
    return result


def losses(calm: FleetResult, stormy: FleetResult) -> dict[str, float | int | None]:
    """Of the outer parameters at the end, and whether all members agreed at every boundary."""
    if calm.eval_loss is None or stormy.eval_loss is None:
        return {"loss_gap": None}
    digests = [*calm.digests, *stormy.digests]
    return {
        "loss_gap": round(account.relative_gap(stormy.eval_loss, calm.eval_loss), 5),
        "calm_loss": round(calm.eval_loss, 4),
        "loss": round(stormy.eval_loss, 4),
        "corrupt_commits": account.corrupt_commits(digests, [*calm.events, *stormy.events]),
        "commits": len(digests),
    }


def summary(
    calm: TimedLog, stormy: TimedLog, did: Disturbance, places: Mapping[str, str]
) -> dict[str, float | int | str | None]:
    """Args:
    places: address of each node, by its id.
    """
    rounds, events = stormy.rounds, stormy.events
    healed = {event.member: at for at, event in events if event.kind in ("joined", "healed")}
    alive = account.lives(rounds, healed, did.killed)
    rejoined = [rejoin_s(stormy, rejoin, places) for rejoin in did.rejoins]
    done = [seconds for seconds in rejoined if seconds is not None]
    notices = [notice_s(stormy, at, member) for at, _, member in did.vanished]
    known = [seconds for seconds in notices if seconds is not None]
    return {
        "step_efficiency": round(
            account.step_efficiency(rounds, alive, account.pace(calm.rounds)), 4
        ),
        "rejoin_s": round(max(done), 1) if len(done) == len(rejoined) and done else None,
        "rejoins": len(done),
        "rejoins_wanted": len(rejoined),
        "notice_s": round(max(known), 2) if known else None,
        "stock_notice_s": round(min(did.stock_notice_s), 1) if did.stock_notice_s else None,
        "losses": len(did.killed),
        "events": ", ".join(f"{e.member} {e.kind}" for _, e in events if e.kind not in _USUAL),
        "joins": sum(rejoin.kind == "join" for rejoin in did.rejoins),
        "aborts": sum(record.aborts for _, record in rounds),
        "batches": account.batches(rounds),
        "calm_batches": account.batches(calm.rounds),
        "seconds": round(account.seconds(rounds), 1),
        "step_s": round(account.step_seconds(rounds), 3),
        "calm_step_s": round(account.step_seconds(calm.rounds), 3),
        "calm_seconds": round(account.seconds(calm.rounds), 1),
        "mean_workers": round(mean_workers(alive, account.seconds(rounds)), 2),
    }


def rejoin_s(log: TimedLog, wanted: Rejoin, places: Mapping[str, str]) -> float | None:
    """From the request to the commit of the first round that has the new worker's work in it."""
    for at, record in log.rounds:
        for share in record.members:
            there = places.get(share.node) == wanted.address
            fresh = there and share.member not in wanted.known
            if at > wanted.at and share.merged and fresh:
                return at - wanted.at
    return None


def notice_s(log: TimedLog, since: float, member: str) -> float | None:
    """From a machine's end to its member's removal from the fleet."""
    found = [
        at
        for at, event in log.events
        if event.member == member and event.kind in ("died", "silent", "stalled")
    ]
    return found[0] - since if found else None


def mean_workers(alive: list[Life], seconds: float) -> float:
    return sum(life.seconds for life in alive) / seconds


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    corpus = load_settings().home / "bench" / "prose.txt"
    write_corpus(corpus)
    metrics = measure(corpus)
    print(json.dumps({"bench": "churn", "metrics": metrics}))
    return 0 if reached(metrics) else 1


def reached(metrics: dict[str, float | int | str | None]) -> bool:
    """Whether every goal is."""
    values = {name: metrics[name] for name in GOALS}
    efficiency = values.pop("step_efficiency")
    enough = isinstance(efficiency, int | float) and efficiency >= GOALS["step_efficiency"]
    return enough and all(
        isinstance(value, int | float) and value <= GOALS[name] for name, value in values.items()
    )


if __name__ == "__main__":
    raise SystemExit(main())
