"""One host's link in terms of `ip` and `tc`: pure, nothing here runs anything."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

Command = tuple[str, ...]

BRIDGE = "br0"
UPLINK = "eth0"
_SUBNET = "10.203.77"
_SUBNET_BITS = 24
HOSTS_AT_MOST = 250
# How much may leave at once: two full frames' worth of 10 ms, so that the rate is reached.
_BURST_S = 0.01
_BURST_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Link:
    """Both directions of a host's cable.

    Attributes:
        mbit_s: rate of each direction, frames included; None: as fast as the machine copies.
        latency_ms: added to each direction.
    """

    mbit_s: float | None = 100.0
    latency_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Counters:
    """What an interface has carried, with the headers of every frame."""

    sent: int
    received: int

    @property
    def total(self) -> int:
        return self.sent + self.received

    def __sub__(self, earlier: Self) -> "Counters":
        return Counters(self.sent - earlier.sent, self.received - earlier.received)

    def __add__(self, other: Self) -> "Counters":
        return Counters(self.sent + other.sent, self.received + other.received)


def address(number: int) -> str:
    """IPv4 address of host `number`, 0 to 249; the range exists inside the namespaces only."""
    return f"{_SUBNET}.{number + 1}"


def port(number: int) -> str:
    """The bridge's end of a host's cable."""
    return f"p{number}"


def make_bridge(namespace: str) -> tuple[Command, ...]:
    return (
        _ip(namespace, "link", "add", BRIDGE, "type", "bridge"),
        _ip(namespace, "link", "set", BRIDGE, "up"),
    )


def make_cable(bridge: str, host: str, number: int) -> tuple[Command, ...]:
    """A pair of interfaces, one end in each of the two namespaces."""
    ends = (port(number), "type", "veth", "peer", "name", UPLINK, "netns", host)
    return (_ip(bridge, "link", "add", *ends),)


def move_uplink(bridge: str, host: str, name: str) -> tuple[Command, ...]:
    """Give an interface of the bridge's namespace to the host, as its uplink."""
    return (_ip(bridge, "link", "set", name, "netns", host, "name", UPLINK),)


def plug(bridge: str, host: str, number: int) -> tuple[Command, ...]:
    """Both ends exist: attach one to the bridge, give the other its address."""
    whole = f"{address(number)}/{_SUBNET_BITS}"
    return (
        # Frames as on a real wire: otherwise 64 KiB travel with one header, and count as such.
        _ip(bridge, "link", "set", port(number), "gso_max_segs", "1"),
        _ip(host, "link", "set", UPLINK, "gso_max_segs", "1"),
        _ip(bridge, "link", "set", port(number), "master", BRIDGE),
        _ip(host, "link", "set", "lo", "up"),
        _ip(host, "address", "add", whole, "dev", UPLINK),
        _ip(bridge, "link", "set", port(number), "up"),
        _ip(host, "link", "set", UPLINK, "up"),
    )


def shape(bridge: str, host: str, number: int, link: Link) -> tuple[Command, ...]:
    """The rate of both directions: each is limited where it leaves."""
    return (*_limit(host, UPLINK, link), *_limit(bridge, port(number), link))


def delay(bridge: str, host: str, number: int, link: Link) -> tuple[Command, ...]:
    """Latency of both directions by netem, below the rate limit."""
    parent = ("parent", "1:1") if link.mbit_s is not None else ("root",)
    options = ("netem", "delay", f"{link.latency_ms:g}ms", "limit", "100000")
    return tuple(
        _tc(namespace, "qdisc", "add", "dev", device, *parent, *options)
        for namespace, device in ((host, UPLINK), (bridge, port(number)))
    )


def set_up(bridge: str, number: int, *, up: bool) -> Command:
    """Plug the cable in or pull it."""
    return _ip(bridge, "link", "set", port(number), "up" if up else "down")


def read_counters(host: str) -> Command:
    return ("ip", "-n", host, "-s", "-j", "link", "show", "dev", UPLINK)


def parse_counters(output: str) -> Counters:
    """From the JSON of `read_counters`."""
    (found,) = (entry for entry in json.loads(output) if entry)
    stats: Mapping[str, Mapping[str, int]] = found["stats64"]
    return Counters(sent=stats["tx"]["bytes"], received=stats["rx"]["bytes"])


def within(namespace: str, command: Sequence[str]) -> list[str]:
    """The same command in a namespace's network; files and processes are the machine's."""
    return ["nsenter", f"--net=/run/netns/{namespace}", "--", *command]


def _limit(namespace: str, device: str, link: Link) -> tuple[Command, ...]:
    if link.mbit_s is None:
        return ()
    burst = max(_BURST_BYTES, round(link.mbit_s * 1e6 / 8 * _BURST_S))
    rate = ("rate", f"{link.mbit_s:g}mbit", "burst", f"{burst}b", "cburst", f"{burst}b")
    on = ("dev", device)
    return (
        _tc(namespace, "qdisc", "add", *on, "root", "handle", "1:", "htb", "default", "1"),
        _tc(
            namespace,
            *("class", "add", *on, "parent", "1:", "classid", "1:1", "htb", *rate),
            *("quantum", "15140"),
        ),
    )


def _ip(namespace: str, *arguments: str) -> Command:
    return ("ip", "-n", namespace, *arguments)


def _tc(namespace: str, *arguments: str) -> Command:
    return ("tc", "-n", namespace, *arguments)
