"""A Ray cluster of separate nodes: the head on a host of its own, and one node a host.

The calling process becomes the driver on the head's host, so it should be a fresh one: see
`in_fresh_process`. Nothing here stops a Ray that it did not start.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, Protocol, Self, TypeVar
from unittest.mock import patch

from foundry.config import child_environment
from foundry.errors import SetupError, Unavailable
from foundry.infra.embedded.ports import is_listening
from tests.hosts import links
from tests.hosts.links import Counters, Link
from tests.hosts.network import ROOT, Network, why_not

P = ParamSpec("P")
R = TypeVar("R")

_PORT = 6399
_START_S = 90.0
_POLL_S = 0.2
_HEAD = 0
# A raylet gives up if its agent needs more than 15 s to start; machines restart such services.
_AGAIN = ("sh", "-c", 'for attempt in 1 2 3; do "$@"; done', "sh")
_RAY_START = (sys.executable, "-m", "ray.scripts.scripts", "start")
# Nodes of this size fit four times on a small machine: few workers, none before it is asked for.
_ENVIRONMENT = {
    # Nobody else is in this network.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}


@dataclass(frozen=True, slots=True)
class NodeSize:
    """What a Ray node of a host offers."""

    num_cpus: int = 1
    object_store_mb: int = 150


@dataclass(frozen=True, slots=True)
class Host:
    """One machine with a Ray node.

    Attributes:
        number: of its network; 0 is the head.
        name: of the Ray node.
    """

    number: int
    name: str
    address: str


class Hosts(Protocol):
    """A cluster whose driver is this process.

    Attributes:
        address: of the head, for `ray.init`.
        shared: why all nodes share one machine; None: they do not.
    """

    address: str
    shared: str | None
    head: Host
    nodes: list[Host]

    def add(self) -> Host:
        """Another host with its node; it returns before the node has joined."""

    def counters(self, host: Host) -> Counters | None:
        """Bytes over the host's link so far; None: it has no link of its own."""

    def cut(self, host: Host) -> None:
        """Pull its cable: a partition."""

    def mend(self, host: Host) -> None: ...

    def lose(self, host: Host) -> None:
        """The machine is gone at once: no connection is closed, nobody says goodbye."""


class SeparateHosts:
    """Every node in a network namespace."""

    def __init__(self, network: Network, link: Link, size: NodeSize) -> None:
        self._network = network
        self._link = link
        self._size = size
        self._next = _HEAD + 1
        self.shared: str | None = None
        self.nodes: list[Host] = []
        network.add(_HEAD, Link(mbit_s=None, latency_ms=0.0))
        self.head = Host(_HEAD, "head", links.address(_HEAD))
        self.address = f"{self.head.address}:{_PORT}"
        self._start(self.head, head_flags(self.head))
        network.enter(_HEAD)

    @classmethod
    @contextmanager
    def opened(cls, count: int, link: Link, size: NodeSize) -> Iterator[Self]:
        import ray

        with Network.opened() as network:
            hosts = cls(network, link, size)
            hosts._connect()
            try:
                for number in range(count):
                    hosts.add()
                    # One by one: on a busy machine, nodes that start together are too slow for Ray.
                    await_nodes(number + 2)
                yield hosts
            finally:
                ray.shutdown()

    def add(self) -> Host:
        number = self._next
        self._next += 1
        host = Host(number, f"host-{number}", links.address(number))
        self._network.add(number, self._link)
        self._start(host, node_flags(host, self.address, self._size))
        self.nodes.append(host)
        return host

    def counters(self, host: Host) -> Counters | None:
        return self._network.counters(host.number)

    def cut(self, host: Host) -> None:
        self._network.plug(host.number, in_=False)

    def mend(self, host: Host) -> None:
        self._network.plug(host.number, in_=True)

    def lose(self, host: Host) -> None:
        # With the cable pulled first, the kernel cannot close the connections of the dead.
        self.cut(host)
        self._network.remove(host.number)
        self.nodes.remove(host)

    def _connect(self) -> None:
        """Make this process the driver once the head listens."""
        import ray

        deadline = time.monotonic() + _START_S
        while not is_listening(self.head.address, _PORT):
            if time.monotonic() > deadline:
                raise Unavailable(f"Ray's head was not ready after {_START_S:.0f} s")
            time.sleep(_POLL_S)
        ray.init(address=self.address, _node_ip_address=self.head.address, log_to_driver=False)

    def _start(self, host: Host, flags: list[str]) -> None:
        scratch = self._network.scratch
        # A directory of its own: the sockets of two nodes would meet in a shared one.
        command = [*_AGAIN, *_RAY_START, f"--temp-dir={scratch / str(host.number)}", *flags]
        self._network.start(host.number, command, environment(), scratch / f"{host.name}.log")


class OneHost:
    """Without the privilege: one local Ray node as large as all of them."""

    def __init__(self, reason: str, address: str) -> None:
        self.shared: str | None = reason
        self.address = "local"
        self.head = Host(_HEAD, "head", address)
        self.nodes = [self.head]

    def add(self) -> Host:
        return self.head

    def counters(self, host: Host) -> Counters | None:
        return None

    def cut(self, host: Host) -> None:
        raise SetupError(f"a host cannot be cut off here: {self.shared}")

    def mend(self, host: Host) -> None:
        raise SetupError(f"a host cannot be cut off here: {self.shared}")

    def lose(self, host: Host) -> None:
        raise SetupError(f"a host cannot be lost here: {self.shared}")


@contextmanager
def ray_hosts(
    count: int, link: Link | None = None, size: NodeSize | None = None
) -> Iterator[SeparateHosts | OneHost]:
    """`count` nodes besides the head, with this process connected as the driver.

    Without the privilege all of it is one local node, and `shared` says why.

    Raises:
        Unavailable: the nodes did not come up.
    """
    os.environ.update(_ENVIRONMENT)
    import ray

    link, size = link or Link(), size or NodeSize()
    reason = why_not()
    if reason is not None:
        ray.init(
            address="local",
            num_cpus=count * size.num_cpus,
            object_store_memory=count * size.object_store_mb * 2**20,
            include_dashboard=False,
            log_to_driver=False,
        )
        try:
            yield OneHost(reason, ray.util.get_node_ip_address())
        finally:
            ray.shutdown()
        return
    with SeparateHosts.opened(count, link, size) as hosts:
        yield hosts


def await_nodes(count: int, timeout_s: float = _START_S) -> None:
    """Wait until Ray knows that many living nodes, the head among them.

    Raises:
        Unavailable: it took too long.
    """
    import ray

    deadline = time.monotonic() + timeout_s
    while (alive := sum(node["Alive"] for node in ray.nodes())) < count:
        if time.monotonic() > deadline:
            raise Unavailable(f"{alive} of {count} Ray nodes came up within {timeout_s:.0f} s")
        time.sleep(_POLL_S)


def in_fresh_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a module's function in a new process: one that has no threads in another network.

    It is born with the cluster's environment: an earlier `ray.init` of this process has left its
    own there, token authentication among it, and the new process must not begin with that.
    """
    context = multiprocessing.get_context("spawn")
    born_with = patch.dict(os.environ, environment(), clear=True)
    with born_with, ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def environment() -> Mapping[str, str]:
    """Of every Ray process: the caller's, without a word about other clusters."""
    kept = {k: v for k, v in child_environment().items() if not k.startswith("RAY_")}
    return {**kept, **_ENVIRONMENT}


def head_flags(host: Host) -> list[str]:
    """Arguments of `ray start` for a head that runs no actors."""
    return [
        "--head",
        f"--port={_PORT}",
        "--include-dashboard=false",
        *_node_flags(host, NodeSize(num_cpus=0, object_store_mb=100)),
    ]


def node_flags(host: Host, head: str, size: NodeSize) -> list[str]:
    return [f"--address={head}", *_node_flags(host, size)]


def _node_flags(host: Host, size: NodeSize) -> list[str]:
    return [
        "--block",
        "--disable-usage-stats",
        f"--node-name={host.name}",
        f"--node-ip-address={host.address}",
        f"--num-cpus={size.num_cpus}",
        "--num-gpus=0",
        f"--object-store-memory={size.object_store_mb * 2**20}",
    ]
