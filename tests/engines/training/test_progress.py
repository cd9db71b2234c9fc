"""The speed that a run tells is that of its training."""

import errno
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from foundry.engines.training.progress import Clock, record_beginning
from foundry.errors import DiskFull


def test_evaluation_and_checkpoints_do_not_slow_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock(tokens=0)
    now[0] += 2
    assert clock.lap(1, 200) == (2.0, 100.0)
    now[0] += 4
    with clock.paused():
        now[0] += 70
    assert clock.lap(3, 600) == (2.0, 100.0)
    assert clock.overall(600) == pytest.approx(600 / 76)


def test_a_run_remembers_when_it_began(tmp_path: Path) -> None:
    began = record_beginning(tmp_path / "run")
    assert abs((datetime.now(UTC) - began).total_seconds()) < 60
    assert record_beginning(tmp_path / "run") == began
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["began.json"]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(DiskFull, match=r"no space left to write began\.json"):
        record_beginning(tmp_path)
