"""A cable with latency, for kernels without netem: `python -m tests.hosts.latency`.

Makes two tap interfaces in its own network namespace and carries every frame from one to the
other, late by a fixed time. Unlike a relay of TCP connections it needs to know no ports.
"""

import argparse
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field

_TUN_SET_INTERFACE = 0x400454CA
_TAP, _NO_HEADER = 0x0002, 0x1000
_FRAME_BYTES = 65_536
_AT_ONCE = 64
_IDLE_S = 1.0


@dataclass(slots=True)
class Direction:
    """Frames on their way, the oldest first, each with the moment it is due."""

    source: int
    target: int
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self, due: float) -> None:
        """Read what has come."""
        for _ in range(_AT_ONCE):
            try:
                self.waiting.append((due, os.read(self.source, _FRAME_BYTES)))
            except BlockingIOError:
                return

    def deliver(self, now: float) -> None:
        while self.waiting and self.waiting[0][0] <= now:
            try:
                os.write(self.target, self.waiting[0][1])
            except BlockingIOError:
                return
            except OSError:
                # An interface that is down drops its frames, as a pulled cable does.
                pass
            self.waiting.popleft()


def open_tap(name: str) -> int:
    """A new tap interface, for as long as the descriptor is open."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), _TAP | _NO_HEADER)
    fcntl.ioctl(descriptor, _TUN_SET_INTERFACE, request)
    return descriptor


def relay(one: int, other: int, seconds: float) -> None:
    """Carry frames both ways until the process is stopped."""
    directions = {one: Direction(one, other), other: Direction(other, one)}
    while True:
        due = [d.waiting[0][0] for d in directions.values() if d.waiting]
        wait = max(0.0, min(due) - time.monotonic()) if due else _IDLE_S
        readable, _, _ = select.select(list(directions), [], [], wait)
        now = time.monotonic()
        for source in readable:
            directions[source].take(now + seconds)
        for direction in directions.values():
            direction.deliver(time.monotonic())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("interfaces", nargs=2)
    parser.add_argument("--ms", type=float, required=True)
    arguments = parser.parse_args()
    one, other = (open_tap(name) for name in arguments.interfaces)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    relay(one, other, arguments.ms / 1000)


if __name__ == "__main__":
    main()
