"""What a driver and its workers print, copied into the job's log.

The process's standard output and error become one pipe; a thread copies it to where it went before,
and keeps stamped lines for the log. Ray forwards what workers print, so libraries are heard, too.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from foundry.errors import DatabaseUnavailable

_FLUSH_S = 2.0
# 16 KiB a second: a loop that prints fills the job's 4 MiB in minutes, not in one.
_FLUSH_BYTES = 32 * 1024
_BUFFER_BYTES = 256 * 1024
_LINE_CHARACTERS = 2000
_LAST_LINES = 40


class Transcript:
    """Stamped lines that wait to be stored; bounded, and the first to go are the newest."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._lines: deque[str] = deque()
        self._bytes = 0
        self._dropped = 0
        self._last: deque[str] = deque(maxlen=_LAST_LINES)

    def add(self, line: str) -> None:
        """Keep a line that was printed.

        Args:
            line: without its end. Of what a progress bar rewrites, the newest is kept.
        """
        text = line.rstrip("\r").rpartition("\r")[2][:_LINE_CHARACTERS]
        if not text.strip():
            return
        stamped = f"{self._clock():%H:%M:%S} {text}\n"
        with self._lock:
            self._last.append(text)
            size = len(stamped.encode(errors="replace"))
            if self._bytes + size > _BUFFER_BYTES:
                self._dropped += 1
                return
            self._lines.append(stamped)
            self._bytes += size

    def take(self, most_bytes: int = _FLUSH_BYTES) -> str:
        """The oldest lines, up to so many bytes; then how many were dropped."""
        taken: list[str] = []
        size = 0
        with self._lock:
            while self._lines and size < most_bytes:
                line = self._lines.popleft()
                size += len(line.encode(errors="replace"))
                taken.append(line)
            self._bytes -= size
            if self._dropped and not self._lines:
                taken.append(f"… {self._dropped} lines were printed too fast to keep\n")
                self._dropped = 0
        return "".join(taken)

    @property
    def last_lines(self) -> list[str]:
        with self._lock:
            return list(self._last)


@contextmanager
def capture_output(transcript: Transcript) -> Iterator[None]:
    """Copy this process's standard output and error into `transcript`."""
    reading, writing = os.pipe()
    saved = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(writing, number)
    os.close(writing)
    copying = threading.Thread(target=_copy, args=(reading, saved[0], transcript), daemon=True)
    copying.start()
    try:
        yield
    finally:
        for number, before in zip((1, 2), saved, strict=True):
            os.dup2(before, number)
        # A child that still holds the pipe would keep the thread alive: it is not waited for long.
        copying.join(timeout=2.0)
        if not copying.is_alive():
            for before in saved:
                os.close(before)


async def store_output(transcript: Transcript, write: Callable[[str], Awaitable[None]]) -> None:
    """Until cancelled: store what was printed. An outage delays it."""
    waiting = ""
    while True:
        waiting = waiting or transcript.take()
        if waiting:
            try:
                await write(waiting)
            except DatabaseUnavailable:
                await asyncio.sleep(_FLUSH_S)
                continue
            waiting = ""
        await asyncio.sleep(_FLUSH_S)


def _copy(reading: int, target: int, transcript: Transcript) -> None:
    rest = b""
    with os.fdopen(reading, "rb", buffering=0) as source:
        while chunk := source.read(65_536):
            os.write(target, chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                transcript.add(line.decode(errors="replace"))
            if len(rest) > 4 * _LINE_CHARACTERS:
                rest = rest[-_LINE_CHARACTERS:]
    if rest:
        transcript.add(rest.decode(errors="replace"))
