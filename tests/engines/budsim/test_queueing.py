import math

import numpy as np
import pytest

from foundry.engines.budsim.queueing import (
    STABLE,
    erlang_c,
    mg1_wait,
    mmc_wait,
    sakasegawa_probability,
    sakasegawa_wait,
    utilization,
    wait_percentile,
)


def _erlang_c_by_recursion(load: float, servers: int) -> float:
    """Erlang B one server at a time, then C; the textbook's way."""
    blocking = 1.0
    for server in range(1, servers + 1):
        blocking = load * blocking / (server + load * blocking)
    return blocking / (1 - load / servers * (1 - blocking))


def test_one_server_waits_as_often_as_it_is_busy() -> None:
    assert erlang_c([0.0, 0.25, 0.9], 1) == pytest.approx([0.0, 0.25, 0.9], rel=1e-12)


def test_two_servers_by_hand() -> None:
    # C(2, a) = a²/(2 + a): 1/3 at a = 1; the wait is C/(2 - a) service times.
    assert float(erlang_c(1.0, 2)) == pytest.approx(1 / 3, rel=1e-12)
    assert float(mmc_wait(0.5, 2.0, 2)) == pytest.approx(2 / 3, rel=1e-12)


@pytest.mark.parametrize("servers", [3, 50, 1_000, 100_000])
@pytest.mark.parametrize("busy", [0.3, 0.9, 0.999])
def test_erlang_c_of_many_servers(servers: int, busy: float) -> None:
    expected = _erlang_c_by_recursion(busy * servers, servers)
    assert float(erlang_c(busy * servers, servers)) == pytest.approx(expected, rel=1e-8, abs=1e-300)


def test_overload_waits_forever() -> None:
    assert erlang_c([4.0, 7.0], 4).tolist() == [1.0, 1.0]
    assert mmc_wait([4.0, 7.0], 1.0, 4).tolist() == [math.inf, math.inf]
    assert mg1_wait([1.0, 1.5], 1.0, 0.0).tolist() == [math.inf, math.inf]


def test_pollaczek_khinchine_by_hand() -> None:
    # M/M/1 at utilization u waits uS/(1 - u); a constant service halves that.
    assert mg1_wait(0.4, 2.0, [1.0, 0.0]) == pytest.approx([8.0, 4.0], rel=1e-12)
    assert float(mg1_wait(0.5, 1.0, 3.0)) == pytest.approx(2.0, rel=1e-12)


def test_sakasegawa_is_exact_for_one_markovian_server() -> None:
    busy = np.linspace(0, 0.94, 48)
    assert sakasegawa_wait(busy, 1.0, 1) == pytest.approx(busy / (1 - busy), rel=1e-12)
    assert sakasegawa_probability(busy, 1) == pytest.approx(busy, rel=1e-12)
    assert sakasegawa_wait(busy, 1.0, 1, 1.0, 0.3) == pytest.approx(mg1_wait(busy, 1.0, 0.3))


@pytest.mark.parametrize(("servers", "excess"), [(2, 0.018), (4, 0.035), (16, 0.116), (64, 0.751)])
def test_sakasegawa_errs_upwards_with_many_servers(servers: int, excess: float) -> None:
    busy = 0.8 * servers
    near = float(sakasegawa_wait(busy, 1.0, servers) / mmc_wait(busy, 1.0, servers))
    assert near == pytest.approx(1 + excess, abs=0.001)


def test_sakasegawa_stops_where_no_queue_is_stable() -> None:
    waits = sakasegawa_wait([STABLE - 1e-9, STABLE, 1.0, 2.0], 1.0, 1)
    assert waits[0] == pytest.approx(19.0, rel=1e-6)
    assert waits[1:].tolist() == [math.inf] * 3


def test_arguments_broadcast() -> None:
    rate = np.array([[1.0], [2.0]])
    servers = np.array([4, 8, 16])
    waits = sakasegawa_wait(rate, 1.0, servers, 2.0, 1.0)
    assert waits.shape == mmc_wait(rate, 1.0, servers).shape == (2, 3)
    assert waits[1, 0] == float(sakasegawa_wait(2.0, 1.0, 4, 2.0, 1.0))
    assert utilization(rate, 0.5, servers)[1].tolist() == [0.25, 0.125, 0.0625]


def test_percentiles_of_the_single_server() -> None:
    # M/M/1: P(W > t) = u·exp(-(1 - u)t) for a service of 1 s.
    busy = 0.8
    wait = mmc_wait(busy, 1.0, 1)
    p95 = float(wait_percentile(wait, busy, 0.95))
    assert busy * math.exp(-(1 - busy) * p95) == pytest.approx(0.05, rel=1e-12)
    assert float(wait_percentile(wait, busy, 0.1)) == 0.0


def test_percentiles_of_the_idle_and_of_the_overloaded() -> None:
    percentiles = wait_percentile([0.0, math.inf, 1.0], [0.0, 1.0, 0.05], 0.95)
    assert percentiles.tolist() == [0.0, math.inf, 0.0]
