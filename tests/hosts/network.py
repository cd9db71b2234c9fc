"""Hosts as network namespaces around a bridge: made, shaped, cut off and removed.

Everything carries a prefix with the process that made it and when that process began, so a later
run can tell the leftovers of a crashed one from the hosts of one that still runs.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

import psutil

from foundry.config import child_environment
from foundry.errors import SetupError
from tests.hosts import links
from tests.hosts.links import Command, Counters, Link

PREFIX = "fdyh"
ROOT = Path(__file__).parents[2]
_NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_END_S = 10.0


def why_not() -> str | None:
    """What is missing for hosts of their own; None: nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "tc", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not found: install iproute2 and util-linux"
    probe = f"{_own_name()}-probe"
    try:
        _run(("ip", "netns", "add", probe))
        _run(("ip", "-n", probe, "link", "add", "v0", "type", "veth", "peer", "name", "v1"))
    except SetupError as error:
        return f"no network namespaces here: {error.message}"
    finally:
        subprocess.run(["ip", "netns", "delete", probe], check=False, capture_output=True)
    return None


class Network:
    """A bridge and its hosts; use `opened`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bridge = f"{name}-b"
        self.scratch = Path(tempfile.gettempdir()) / name
        self._netem: bool | None = None
        self._outside: int | None = None
        self._children: list[subprocess.Popen[bytes]] = []

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[Self]:
        """An empty network; on exit all its processes are killed and nothing is left.

        Raises:
            SetupError: the privilege or a program is missing.
        """
        if (reason := why_not()) is not None:
            raise SetupError(reason)
        sweep()
        network = cls(_own_name())
        network.scratch.mkdir(mode=0o700)
        try:
            _run(("ip", "netns", "add", network.bridge))
            for command in links.make_bridge(network.bridge):
                _run(command)
            yield network
        finally:
            network.leave()
            _remove(network.name)
            network._reap()

    def host(self, number: int) -> str:
        """Name of a host's namespace."""
        return f"{self.name}-h{number}"

    def add(self, number: int, link: Link) -> None:
        """Bring a host's network up.

        Raises:
            SetupError: a command failed; the message has its words.
        """
        host = self.host(number)
        _run(("ip", "netns", "add", host))
        relayed = link.latency_ms > 0 and not self.netem
        if relayed:
            self._relayed_cable(host, number, link.latency_ms)
        else:
            _run_all(links.make_cable(self.bridge, host, number))
        _run_all(links.plug(self.bridge, host, number))
        _run_all(links.shape(self.bridge, host, number, link))
        if link.latency_ms > 0 and not relayed:
            _run_all(links.delay(self.bridge, host, number, link))

    def remove(self, number: int) -> None:
        """Kill what runs there and take the host away; its number can be used again."""
        _remove(self.host(number))
        self._reap()

    def plug(self, number: int, *, in_: bool) -> None:
        """Pull a host's cable, or plug it in again. Its processes notice nothing else."""
        _run(links.set_up(self.bridge, number, up=in_))

    def kill(self, number: int) -> None:
        """SIGKILL to every process of the host."""
        _kill_all(self.host(number))
        self._reap()

    def start(
        self, number: int, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        """Run a program on a host; it ends with the host, by its process id."""
        with log.open("ab") as output:
            self._spawn(self.host(number), command, output, environment)

    def processes(self, number: int) -> list[int]:
        return _pids(self.host(number))

    def counters(self, number: int) -> Counters:
        """What the host's uplink has carried so far."""
        return links.parse_counters(_run(links.read_counters(self.host(number))))

    def enter(self, number: int) -> None:
        """Move this thread, and all that it starts from now on, to the host's network.

        Call it in a fresh process: threads that exist already stay where they are.
        """
        if self._outside is None:
            self._outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        with (_NAMESPACES / self.host(number)).open() as file:
            _set_network(file.fileno())

    def leave(self) -> None:
        """Back to where this thread came from; nothing, if it never left."""
        if self._outside is not None:
            _set_network(self._outside)
            os.close(self._outside)
            self._outside = None

    @property
    def netem(self) -> bool:
        """Whether the kernel can delay packets itself."""
        if self._netem is None:
            try:
                _run(("tc", "-n", self.bridge, "qdisc", "add", "dev", "lo", "root", "netem"))
            except SetupError:
                self._netem = False
            else:
                _run(("tc", "-n", self.bridge, "qdisc", "delete", "dev", "lo", "root"))
                self._netem = True
        return self._netem

    def _relayed_cable(self, host: str, number: int, latency_ms: float) -> None:
        """Two taps and the process between them; it ends when the bridge's namespace is emptied."""
        far = f"far{number}"
        command = [sys.executable, "-m", "tests.hosts.latency", links.port(number), far]
        command += ["--ms", f"{latency_ms:g}"]
        relay = self._spawn(self.bridge, command, subprocess.PIPE, child_environment())
        assert relay.stdout is not None
        with relay.stdout:
            if relay.stdout.readline() != b"ready\n":
                raise SetupError("the latency relay did not start: is /dev/net/tun there?")
        _run_all(links.move_uplink(self.bridge, host, far))

    def _spawn(
        self,
        namespace: str,
        command: Sequence[str],
        output: int | IO[bytes],
        environment: Mapping[str, str],
    ) -> "subprocess.Popen[bytes]":
        child = subprocess.Popen(
            links.within(namespace, command),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not subprocess.PIPE else None,
            start_new_session=True,
        )
        self._children.append(child)
        return child

    def _reap(self) -> None:
        """The dead stay listed as zombies until somebody asks how they ended."""
        self._children = [child for child in self._children if child.poll() is None]


def sweep() -> None:
    """Remove what crashed runs have left."""
    names = {_owner_of(name) for name in _listed()} | {
        path.name for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}-*-*")
    }
    for name in names:
        if not _is_alive(name):
            _remove(name)


def _set_network(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET):
        raise SetupError(f"cannot change the network: {os.strerror(ctypes.get_errno())}")


def _own_name() -> str:
    process = psutil.Process()
    return f"{PREFIX}-{process.pid}-{round(process.create_time() * 100) % 10**8}"


def _owner_of(namespace: str) -> str:
    return namespace.rpartition("-")[0]


def _is_alive(name: str) -> bool:
    _, pid, began = name.split("-")
    try:
        found = psutil.Process(int(pid))
        return round(found.create_time() * 100) % 10**8 == int(began)
    except psutil.NoSuchProcess:
        return False


def _remove(name: str) -> None:
    """All namespaces of that name or beginning with it, their processes, and the scratch files."""
    for namespace in _listed():
        if namespace == name or _owner_of(namespace) == name:
            _kill_all(namespace)
            _run(("ip", "netns", "delete", namespace))
    scratch = Path(tempfile.gettempdir()) / name
    shutil.rmtree(scratch, ignore_errors=True)


def _listed() -> list[str]:
    if not _NAMESPACES.is_dir():
        return []
    return sorted(path.name for path in _NAMESPACES.glob(f"{PREFIX}-*-*-*"))


def _pids(namespace: str) -> list[int]:
    own = os.getpid()
    found = _run(("ip", "netns", "pids", namespace)).split()
    return [pid for pid in map(int, found) if pid != own]


def _kill_all(namespace: str) -> None:
    """Until none is left: a process may start another one meanwhile."""
    deadline = time.monotonic() + _END_S
    while pids := _pids(namespace):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise SetupError(f"processes {pids} in {namespace} do not end")
        time.sleep(0.02)


def _run_all(commands: Sequence[Command]) -> None:
    for command in commands:
        _run(command)


def _run(command: Command) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
