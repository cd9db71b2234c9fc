"""What would be run, and how its answers are read."""

import json

import pytest

from tests.hosts import links
from tests.hosts.latency import Direction
from tests.hosts.links import Counters, Link


def test_hosts_have_addresses_of_their_own() -> None:
    addresses = {links.address(number) for number in range(links.HOSTS_AT_MOST)}
    assert len(addresses) == links.HOSTS_AT_MOST
    assert links.address(0) == "10.203.77.1"


def test_every_command_stays_inside_a_namespace_of_the_run() -> None:
    link = Link(mbit_s=100.0, latency_ms=5)
    commands = [
        *links.make_bridge("run-b"),
        *links.make_cable("run-b", "run-h1", 1),
        *links.plug("run-b", "run-h1", 1),
        *links.shape("run-b", "run-h1", 1, link),
        *links.delay("run-b", "run-h1", 1, link),
        links.set_up("run-b", 1, up=False),
        links.read_counters("run-h1"),
    ]
    assert {command[:2] for command in commands} <= {("ip", "-n"), ("tc", "-n")}
    assert {command[2] for command in commands} == {"run-b", "run-h1"}


def test_a_link_is_limited_where_each_direction_leaves() -> None:
    up, up_rate, down, down_rate = links.shape("b", "h", 3, Link(mbit_s=100.0))
    assert up == _words("tc -n h qdisc add dev eth0 root handle 1: htb default 1")
    assert down == _words("tc -n b qdisc add dev p3 root handle 1: htb default 1")
    words = "class add dev eth0 parent 1: classid 1:1 htb rate 100mbit burst 125000b cburst 125000b"
    assert up_rate[3:-2] == _words(words)
    assert down_rate[6] == "p3"


def test_a_link_without_a_rate_is_not_shaped() -> None:
    assert links.shape("b", "h", 0, Link(mbit_s=None)) == ()
    delays = links.delay("b", "h", 0, Link(mbit_s=None, latency_ms=2.5))
    assert delays[0] == _words("tc -n h qdisc add dev eth0 root netem delay 2.5ms limit 100000")


def test_latency_lies_below_the_rate() -> None:
    delays = links.delay("b", "h", 0, Link(mbit_s=10.0, latency_ms=20))
    assert delays[1][:9] == _words("tc -n b qdisc add dev p0 parent 1:1")


def test_a_slow_link_still_lets_whole_frames_through() -> None:
    rate = links.shape("b", "h", 0, Link(mbit_s=1.0))[1]
    assert rate[rate.index("burst") + 1] == "16384b"


def test_counters_are_read_from_the_uplink() -> None:
    output = json.dumps([{}, {"stats64": {"rx": {"bytes": 7, "packets": 1}, "tx": {"bytes": 5}}}])
    counters = links.parse_counters(output)
    assert counters == Counters(sent=5, received=7)
    assert counters - Counters(1, 2) == Counters(4, 5)
    assert (counters + counters).total == 24


def test_counters_of_no_interface_are_an_error() -> None:
    with pytest.raises(ValueError):
        links.parse_counters("[{}]")


def test_frames_wait_until_they_are_due() -> None:
    direction = Direction(source=-1, target=-1)
    direction.waiting.append((10.0, b"frame"))
    direction.deliver(9.9)
    assert list(direction.waiting) == [(10.0, b"frame")]


def test_a_command_within_a_host_changes_its_network_only() -> None:
    assert links.within("h", ["ray", "start"]) == [
        "nsenter",
        "--net=/run/netns/h",
        "--",
        "ray",
        "start",
    ]


def _words(line: str) -> links.Command:
    return tuple(line.split())
