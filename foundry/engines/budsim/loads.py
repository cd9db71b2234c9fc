"""The load that each replica carries: how many sequences are in flight, and who waits."""

from dataclasses import dataclass

import numpy as np

from foundry.engines.budsim import queueing
from foundry.engines.budsim.configuration import Configurations, Floats, Ints
from foundry.engines.budsim.curves import FIELDS, GRID, Curves
from foundry.engines.budsim.request import Lengths, Workload

_TAIL = 0.95
# Standard normal quantile of the 95th percentile.
_Z95 = 1.6448536269514722
_TPOT, _TTFT = FIELDS.index("tpot"), FIELDS.index("ttft")


@dataclass(frozen=True, slots=True)
class Load:
    """What N configurations carry; shape (N,) each.

    Attributes:
        batch: sequences in flight per replica.
        carried: sequences in flight on all replicas.
        logs: (N, fields) of `curves.FIELDS` at that batch.
        wait, wait_p50, wait_p95: for a slot, before the engine starts on a request; s.
        utilization: offered load over capacity.
        capacity: requests/s of all replicas with every slot in use.
    """

    batch: Floats
    carried: Floats
    logs: Floats
    wait: Floats
    wait_p50: Floats
    wait_p95: Floats
    utilization: Floats
    capacity: Floats

    def seconds(self, field: int) -> Floats:
        return np.exp(self.logs[:, field])

    def service(self, workload: Workload) -> Floats:
        """Seconds from the start of a request to its last token, mean."""
        return _service(self.logs, workload)


def carried(
    drawn: Curves, rows: Ints, configurations: Configurations, workload: Workload, slots: Ints
) -> Load:
    """The steady state of a workload.

    Args:
        rows: (N,), each configuration's row in the curves.
        slots: (N,), sequences whose KV cache fits, per replica.
    """
    # Beyond the grid nothing is known; who comes on top is taken to wait.
    servers = np.clip(np.minimum(configurations.max_num_seqs, slots), 1.0, GRID[-1])
    if workload.users is not None:
        return _closed(drawn, rows, configurations, workload, servers)
    return _open(drawn, rows, configurations, workload, servers)


def _closed(
    drawn: Curves, rows: Ints, configurations: Configurations, workload: Workload, servers: Floats
) -> Load:
    assert workload.users is not None
    wanted = np.maximum(workload.users / configurations.replicas, 1.0)
    batch = np.minimum(wanted, servers)
    logs = drawn.at(rows, batch)
    service = _service(logs, workload)
    # Little: users beyond the slots wait as long as the slots take to serve their share.
    wait = np.maximum(wanted / servers - 1.0, 0.0) * service
    capacity = configurations.replicas * servers / _service(drawn.at(rows, servers), workload)
    carried = np.minimum(workload.users, servers * configurations.replicas)
    return Load(batch, carried, logs, wait, wait, wait, wanted / servers, capacity)


def _open(
    drawn: Curves, rows: Ints, configurations: Configurations, workload: Workload, servers: Floats
) -> Load:
    assert workload.rate is not None
    rate = workload.rate / configurations.replicas
    full = servers / _service(drawn.at(rows, servers), workload)
    batch = _in_flight(drawn, rows, workload, rate, servers)
    logs = drawn.at(rows, batch)
    utilization = rate / full
    # One line for all replicas: the router sends a request where a slot is free.
    slots = servers * configurations.replicas
    at_full = servers / full
    wait = queueing.sakasegawa_wait(
        workload.rate, at_full, slots, workload.arrival_scv, _output_scv(workload.output)
    )
    chance = queueing.sakasegawa_probability(np.minimum(utilization, 1.0), slots)
    known = np.isfinite(wait)
    finite = np.where(known, wait, 0.0)
    halves = queueing.wait_percentile(finite, chance, 0.5)
    tails = queueing.wait_percentile(finite, chance, _TAIL)
    endless = np.where(known, 0.0, np.inf)
    capacity = full * configurations.replicas
    return Load(
        batch,
        batch * configurations.replicas,
        logs,
        wait,
        halves + endless,
        tails + endless,
        utilization,
        capacity,
    )


def _in_flight(
    drawn: Curves, rows: Ints, workload: Workload, rate: Floats, servers: Floats
) -> Floats:
    """Sequences in flight at an arrival rate: the smallest b with b/S(b) at least the rate.

    Throughput grows with b, so it is found on the grid and interpolated in logs.
    """
    service = np.exp(drawn.values[..., _TTFT]) + _gaps(workload) * np.exp(drawn.values[..., _TPOT])
    throughput = np.maximum.accumulate(GRID / service, axis=1)[rows]
    reached = throughput >= rate[:, None]
    above = np.where(reached.any(axis=1), reached.argmax(axis=1), len(GRID) - 1)
    below = np.maximum(above - 1, 0)
    every = np.arange(len(rows))
    low, high = np.log(throughput[every, below]), np.log(throughput[every, above])
    share = np.clip((np.log(rate) - low) / np.maximum(high - low, 1e-12), 0.0, 1.0)
    found = np.exp2(below + share * (above - below))
    # Below the grid one request at a time is in flight for a part of the time.
    found = np.where(reached[:, 0], 1.0, found)
    in_flight: Floats = np.minimum(found, servers)
    return in_flight


def _gaps(workload: Workload) -> float:
    """Times between tokens of a mean request."""
    return max(workload.output.mean - 1.0, 0.0)


def _service(logs: Floats, workload: Workload) -> Floats:
    seconds: Floats = np.exp(logs[:, _TTFT]) + _gaps(workload) * np.exp(logs[:, _TPOT])
    return seconds


def _output_scv(lengths: Lengths) -> float:
    """Squared coefficient of variation of a log-normal with these percentiles."""
    if lengths.p95 <= lengths.p50 or lengths.p50 <= 0:
        return 0.0
    sigma = np.log(lengths.p95 / lengths.p50) / _Z95
    return float(min(np.expm1(sigma**2), 100.0))
