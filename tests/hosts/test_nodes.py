"""Real hosts, where the privilege is there."""

import os
import time
from pathlib import Path

import pytest

from foundry.errors import SetupError
from tests.hosts.links import Counters, Link
from tests.hosts.network import PREFIX, sweep, why_not
from tests.hosts.nodes import (
    Host,
    NodeSize,
    OneHost,
    environment,
    head_flags,
    in_fresh_process,
    node_flags,
    ray_hosts,
)

_MISSING = why_not()
separate = pytest.mark.skipif(_MISSING is not None, reason=f"no separate hosts: {_MISSING}")
_SENT = 10_000_000


def test_a_node_joins_the_head_with_its_own_address() -> None:
    host = Host(2, "host-2", "10.203.77.3")
    flags = node_flags(host, "10.203.77.1:6399", NodeSize(num_cpus=2, object_store_mb=150))
    assert flags[0] == "--address=10.203.77.1:6399"
    assert "--node-ip-address=10.203.77.3" in flags
    assert "--num-cpus=2" in flags
    assert "--object-store-memory=157286400" in flags


def test_the_head_runs_no_actors() -> None:
    flags = head_flags(Host(0, "head", "10.203.77.1"))
    assert "--head" in flags
    assert "--num-cpus=0" in flags
    assert "--include-dashboard=false" in flags


def test_other_clusters_are_not_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.1:6379")
    assert "RAY_ADDRESS" not in environment()


def test_a_fresh_process_begins_without_an_earlier_clusters_token_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert in_fresh_process(os.getenv, "RAY_AUTH_MODE") == "disabled"
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_one_host_has_no_counters_and_says_why() -> None:
    hosts = OneHost("network namespaces need root", "192.0.2.1")
    assert hosts.counters(hosts.nodes[0]) is None
    assert hosts.shared == "network namespaces need root"
    with pytest.raises(SetupError, match="need root"):
        hosts.lose(hosts.head)


@pytest.mark.ray
@separate
def test_two_hosts_come_up_with_slow_links_and_leave_nothing() -> None:
    seconds, sent, received, nodes = in_fresh_process(_transfer)
    assert len(nodes) == 2
    ideal = _SENT * 8 / 100e6
    assert ideal * 0.75 < seconds < ideal * 1.25
    for counted in (sent.sent, received.received):
        assert _SENT < counted < _SENT * 1.1
    assert not list(Path("/run/netns").glob(f"{PREFIX}-*"))


@pytest.mark.ray
@separate
def test_a_lost_host_closes_no_connection_and_another_one_can_come() -> None:
    silent_s, nodes = in_fresh_process(_lose_and_add)
    # A closed connection would be noticed at once.
    assert silent_s >= 3
    assert nodes == ["host-2"]


@pytest.mark.ray
@separate
def test_leftovers_of_a_run_that_crashed_are_removed() -> None:
    import subprocess

    leftover = f"{PREFIX}-1-1-h1"
    subprocess.run(["ip", "netns", "add", leftover], check=True)
    sleeper = subprocess.Popen(["nsenter", f"--net=/run/netns/{leftover}", "sleep", "60"])
    time.sleep(0.2)
    sweep()
    assert sleeper.wait(timeout=5) == -9
    assert not (Path("/run/netns") / leftover).exists()


def _transfer() -> tuple[float, Counters, Counters, list[str]]:
    import numpy as np
    import ray

    with ray_hosts(2, Link(mbit_s=100.0), NodeSize()) as hosts:

        class Holder:
            def make(self) -> list[object]:
                return [ray.put(np.ones(_SENT, np.uint8))]

            def take(self, refs: list[object]) -> float:
                began = time.monotonic()
                assert len(ray.get(refs[0])) == _SENT
                return time.monotonic() - began

            def node(self) -> str:
                return str(ray.util.get_node_ip_address())

        remote = ray.remote(num_cpus=1)(Holder)
        actors = [remote.remote(), remote.remote()]
        places = ray.get([actor.node.remote() for actor in actors])
        by_address = {host.address: host for host in hosts.nodes}
        source, target = (by_address[place] for place in places)
        refs = ray.get(actors[0].make.remote())
        before = hosts.counters(source), hosts.counters(target)
        seconds = ray.get(actors[1].take.remote(refs))
        after = hosts.counters(source), hosts.counters(target)
        sent, received = (a - b for a, b in zip(after, before, strict=True) if a and b)
        return seconds, sent, received, places


def _lose_and_add() -> tuple[float, list[str]]:
    import ray

    with ray_hosts(1, Link(), NodeSize()) as hosts:
        hosts.lose(hosts.nodes[0])
        began = time.monotonic()
        hosts.add()
        while time.monotonic() - began < 4 and all(node["Alive"] for node in ray.nodes()):
            time.sleep(0.1)
        return time.monotonic() - began, [host.name for host in hosts.nodes]
