"""Who is in flight and who waits, on curves that are simple enough to solve by hand."""

from typing import Any

import numpy as np
import pytest

from foundry.engines.budsim.curves import FIELDS, GRID, Curves
from foundry.engines.budsim.loads import Load, _output_scv, carried
from foundry.engines.budsim.request import Lengths, Workload
from tests.engines.budsim.serving_cases import rows

OUTPUT = 101


def _curves(first: np.ndarray, step: np.ndarray) -> Curves:
    values = np.zeros((1, len(GRID), len(FIELDS)))
    values[0, :, 0], values[0, :, 1] = np.log(step), np.log(first)
    return Curves(values, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool))


# One second to the first token and a hundred gaps of 10 ms, whatever the load.
FLAT = _curves(np.full(12, 1.0), np.full(12, 0.01))
# Every sequence adds its share: throughput never grows.
SERIAL = _curves(GRID, GRID * 0.01)


def _closed(users: float, slots: int = 1000, drawn: Curves = FLAT, **settings: int) -> Load:
    workload = Workload(Lengths.of(100), Lengths.of(OUTPUT), users=users)
    return _carried(drawn, workload, slots, **settings)


def _open(rate: float, slots: int, drawn: Curves = FLAT, scv: float = 1.0, **settings: int) -> Load:
    workload = Workload(Lengths.of(100), Lengths.of(OUTPUT), rate=rate, arrival_scv=scv)
    return _carried(drawn, workload, slots, **settings)


def _carried(drawn: Curves, workload: Workload, slots: int, **settings: Any) -> Load:
    shape = rows(**settings)
    return carried(drawn, np.zeros(1, np.int64), shape, workload, np.full(1, slots))


def test_users_with_a_slot_do_not_wait() -> None:
    found = _closed(64, replicas=4)
    assert found.batch[0] == 16.0
    assert found.carried[0] == 64.0
    assert found.wait[0] == found.wait_p95[0] == 0.0
    assert found.utilization[0] == pytest.approx(64 / 1000 * 1000 / 256 / 4)


def test_users_beyond_the_slots_wait_for_them() -> None:
    found = _closed(300, slots=20, replicas=5)
    assert found.batch[0] == 20.0
    assert found.carried[0] == 100.0
    # 200 of 300 wait; each slot serves a request in 2 s.
    assert found.wait[0] == pytest.approx(2 * 2.0)
    assert found.utilization[0] == 3.0
    assert found.capacity[0] == pytest.approx(100 / 2.0)


@pytest.mark.parametrize("users", [0.5, 1, 3, 64, 1000, 1e5])
@pytest.mark.parametrize("slots", [0, 1, 7, 500])
@pytest.mark.parametrize("replicas", [1, 3])
def test_little(users: float, slots: int, replicas: int) -> None:
    found = _closed(users, slots=slots, drawn=SERIAL, replicas=replicas)
    service = np.exp(found.logs[:, 1]) + (OUTPUT - 1) * np.exp(found.logs[:, 0])
    completed = found.carried / service
    assert completed * (found.wait + service) == pytest.approx([users])


def test_max_num_seqs_bounds_what_memory_would_hold() -> None:
    assert _closed(512, slots=1000, max_num_seqs=32).batch[0] == 32.0
    assert _closed(512, slots=16, max_num_seqs=32).batch[0] == 16.0


def test_users_beyond_the_grid_wait() -> None:
    found = _closed(20_480, slots=1 << 20, max_num_seqs=30_000)
    assert found.carried[0] == 2048.0
    assert found.wait[0] == pytest.approx(9 * 2.0)
    assert found.capacity[0] == pytest.approx(1024.0)


def test_an_open_load_keeps_rate_times_service_in_flight() -> None:
    found = _open(16.0, slots=256)
    assert found.batch[0] == pytest.approx(32.0, rel=1e-6)
    assert found.utilization[0] == pytest.approx(32 / 256)
    assert found.capacity[0] == pytest.approx(128.0)
    assert _open(16.0, slots=256, replicas=4).batch[0] == pytest.approx(8.0, rel=1e-6)


def test_a_quiet_replica_serves_one_at_a_time() -> None:
    assert _open(0.01, slots=256).batch[0] == 1.0


def test_waits_are_endless_from_a_utilization_of_095() -> None:
    # Eight slots, two seconds each: four requests/s.
    below, above = _open(3.79, slots=8), _open(3.81, slots=8)
    assert np.isfinite(below.wait_p95[0])
    assert below.utilization[0] == pytest.approx(3.79 / 4)
    for wait in (above.wait, above.wait_p50, above.wait_p95):
        assert wait[0] == np.inf
    assert _open(400.0, slots=8).batch[0] == 8.0


def test_one_slot_is_a_queue_with_one_server() -> None:
    """Sakasegawa is exact at c = 1: M/D/1, since outputs do not vary."""
    found = _open(0.25, slots=1)
    busy = 0.5
    assert found.wait[0] == pytest.approx(0.5 * busy / (1 - busy) * 2.0)
    # Half of the arrivals wait; of all, 5 % wait longer than ln(0.5/0.05) means of those who do.
    assert found.wait_p50[0] == pytest.approx(0.0, abs=1e-12)
    assert found.wait_p95[0] == pytest.approx(found.wait[0] / busy * np.log(10))


def test_bursts_make_waits_longer() -> None:
    smooth, bursty = _open(3.0, slots=8), _open(3.0, slots=8, scv=13.2**2)
    assert bursty.wait[0] / smooth.wait[0] == pytest.approx((13.2**2) / 1.0)


def test_replicas_share_one_line() -> None:
    apart, together = _open(3.0, slots=8), _open(12.0, slots=8, replicas=4)
    assert together.utilization[0] == pytest.approx(apart.utilization[0])
    assert together.wait[0] < apart.wait[0]


def test_no_output_variation_without_percentiles() -> None:
    assert _output_scv(Lengths.of(100)) == 0.0
    sigma = 0.8
    p95 = 100 * np.exp(1.6448536269514722 * sigma)
    assert _output_scv(Lengths(120, 100, p95)) == pytest.approx(np.expm1(sigma**2))
    assert _output_scv(Lengths(1, 0, 10)) == 0.0
    assert _output_scv(Lengths(1e3, 1, 1e9)) == 100.0
