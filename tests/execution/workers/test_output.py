"""What is printed, as the job's log keeps it."""

import asyncio
import os
from datetime import UTC, datetime

from foundry.errors import DatabaseUnavailable
from foundry.execution.workers.output import Transcript, capture_output, store_output

NOON = datetime(2026, 1, 2, 12, 0, 5, tzinfo=UTC)


def transcript() -> Transcript:
    return Transcript(lambda: NOON)


def test_lines_are_stamped_and_progress_bars_are_one_line() -> None:
    kept = transcript()
    kept.add("loading\r\r 10 %\r 99 %\r100 %")
    kept.add("")
    kept.add("saved\r")
    assert kept.take() == "12:00:05 100 %\n12:00:05 saved\n"
    assert kept.take() == ""
    assert kept.last_lines == ["100 %", "saved"]


def test_a_flood_is_cut_and_says_so() -> None:
    kept = transcript()
    for _ in range(400):
        kept.add("x" * 5000)
    stored = ""
    while part := kept.take(100_000):
        assert len(part) <= 103_000
        stored += part
    assert len(stored) < 256 * 1024 + 100
    assert stored.endswith("lines were printed too fast to keep\n")
    assert max(map(len, stored.splitlines())) == 2009
    kept.add("later")
    assert kept.take() == "12:00:05 later\n"


def test_everything_that_the_process_writes_is_copied_and_put_back() -> None:
    kept = transcript()
    before = os.fstat(1).st_ino
    with capture_output(kept):
        os.write(1, b"from a library\n")
        os.write(2, b"warning: \xff\nno end")
    assert os.fstat(1).st_ino == before
    assert kept.last_lines == ["from a library", "warning: \ufffd", "no end"]


async def test_an_outage_delays_the_log_and_loses_nothing() -> None:
    kept, stored, done = transcript(), list[str](), asyncio.Event()
    faults: list[Exception] = [DatabaseUnavailable("away")]

    async def write(text: str) -> None:
        if faults:
            raise faults.pop()
        stored.append(text)
        done.set()

    kept.add("once")
    storing = asyncio.ensure_future(store_output(kept, write))
    await asyncio.wait_for(done.wait(), 30)
    storing.cancel()
    assert stored == ["12:00:05 once\n"]
