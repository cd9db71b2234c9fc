"""A pseudo-terminal with `foundry` or a shell in it, as a person types and sees it."""

import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

COLUMNS, ROWS = 80, 24
CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"
_PATIENCE_S = 60.0
# What moves the cursor, colours or switches modes; `~` and letters end it.
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z~]|[=>])|\r")
# Ctrl-C reaches only whoever's controlling terminal it is, and not who was started in the
# background of a script: such a process inherits that it is ignored.
_PROGRAM = (
    "import fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from foundry.cli.main import main; main()"
)


class Terminal:
    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self._process = process
        self._seen = b""
        self._at = 0

    @property
    def raw(self) -> str:
        """Everything that was sent to the screen so far."""
        return self._seen.decode(errors="replace")

    @property
    def shown(self) -> str:
        """The same, without what moves the cursor."""
        return _ESCAPES.sub("", self.raw)

    def write(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str) -> str:
        """Wait until `text` is shown after what was expected before. Returns what came with it."""
        until = time.monotonic() + _PATIENCE_S
        while (found := self.shown.find(text, self._at)) < 0:
            assert time.monotonic() < until, f"no {text!r} in {self.shown!r}"
            self._read(0.1)
        passed = self.shown[self._at : found + len(text)]
        self._at = found + len(text)
        return passed

    def wait(self, patience_s: float = _PATIENCE_S) -> int:
        """The exit code."""
        until = time.monotonic() + patience_s
        while self._process.poll() is None:
            assert time.monotonic() < until, f"it goes on: {self.shown!r}"
            self._read(0.1)
        while self._read(0):
            pass
        return self._process.returncode

    def _read(self, wait_s: float) -> bool:
        if not select.select([self._master], [], [], wait_s)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # The other end is closed.
            return False
        self._seen += data
        return bool(data)


@contextmanager
def open_terminal(*arguments: str, environment: Mapping[str, str]) -> Iterator[Terminal]:
    with _open([sys.executable, "-c", _PROGRAM, *arguments], environment) as terminal:
        yield terminal


@contextmanager
def open_shell(script: str, environment: Mapping[str, str]) -> Iterator[Terminal]:
    """A script that ends at its first command that fails."""
    with _open(["bash", "-euo", "pipefail", "-c", script], environment) as terminal:
        yield terminal


@contextmanager
def _open(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Terminal]:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)
