"""The speed that a run tells is that of its training."""

import time

import pytest

from foundry.engines.training.progress import Clock


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
