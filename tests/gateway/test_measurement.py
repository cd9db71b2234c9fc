"""What the gateway counts of each endpoint, and that counting never hurts a request."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import httpx
import pytest

from foundry.config import HttpSettings
from foundry.errors import DatabaseUnavailable
from foundry.gateway.app import create_gateway
from foundry.gateway.measurement import MAX_OPEN, Measurement
from foundry.gateway.ports import End, Settlement
from foundry.infra.http.scopes import Stage
from foundry.infra.wire.frames import Usage
from foundry.serving.outcomes.domain import Statistics, WindowPart, merge_statistics
from tests.gateway.conftest import BASE_ID, CHAT, RecordingMeter, Stand, caller, target

WINDOW_S = 10.0
CALLER = caller("inference:invoke")


@dataclass
class FakeSink:
    """Keeps the newest part of each key, as the table does."""

    rows: dict[tuple[UUID, int, float, UUID], Statistics] = field(default_factory=dict)
    fault: Exception | None = None
    writes: int = 0
    written: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, parts: Sequence[WindowPart]) -> None:
        if self.fault is not None:
            raise self.fault
        self.writes += 1
        self.written.set()
        for part in parts:
            key = (part.endpoint_id, part.revision, part.started_at.timestamp(), part.replica)
            # Through JSON, as the table keeps it.
            self.rows[key] = Statistics.of_json(part.statistics.to_json())

    def window(self, started_at: float) -> Statistics:
        return merge_statistics(row for key, row in self.rows.items() if key[2] == started_at)


class Bench:
    def __init__(self) -> None:
        self.now, self.sink, self.meter = 1000.0, FakeSink(), RecordingMeter()
        self.measurement = self.replica()

    def replica(self) -> Measurement:
        return Measurement(
            self.meter,
            self.sink,
            engine_version="0.29.0",
            window_s=WINDOW_S,
            flush_s=0.01,
            clock=lambda: self.now,
        )

    def settle(
        self,
        ttft_s: float = 0.1,
        duration_s: float = 0.5,
        tokens: int = 5,
        end: End = End.FINISHED,
        code: str | None = None,
        streamed: bool = True,
        app_name: str = "engine-00000000-r3",
        measurement: Measurement | None = None,
    ) -> None:
        usage = Usage(7, tokens) if end is End.FINISHED else None
        where = replace(target("smollm2"), app_name=app_name)
        (measurement or self.measurement).settle(
            Settlement(
                request_id="r",
                principal=CALLER,
                target=where,
                operation="chat",
                end=end,
                stage=Stage.DISPATCH,
                status=200,
                code=code,
                usage=usage,
                streamed=streamed,
                attempts=1,
                ttft_s=ttft_s,
                duration_s=duration_s,
            )
        )


async def test_a_window_holds_what_its_requests_did() -> None:
    bench = Bench()
    for _ in range(10):
        bench.now += 0.5
        bench.settle()
    bench.settle(streamed=False, ttft_s=0.5)
    bench.settle(end=End.ENGINE_DIED, code="engine_failed")
    bench.settle(end=End.CLIENT_LEFT)
    bench.settle(end=End.SHUT_DOWN)
    bench.settle(end=End.REFUSED, code="invalid_value")
    await bench.measurement.flush()
    (key,) = bench.sink.rows
    assert key[:3] == (BASE_ID, 3, 1000.0)
    found = bench.sink.window(1000.0)
    assert (found.n, found.requests, found.errors) == (10, 11, 1)
    assert (found.input_total, found.output_total) == (77, 55)
    assert found.busy_s == pytest.approx(5.0)
    # Ten requests one after the other, and five more beside the last.
    assert found.concurrency == pytest.approx(15 * 0.5 / 5.0)
    actual = found.actual()
    assert actual["ttft_p50_ms"] == pytest.approx(100, rel=0.01)
    assert actual["tpot_ms"] == pytest.approx(100, rel=0.01)
    assert actual["latency_p95_ms"] == pytest.approx(500, rel=0.01)
    assert actual["throughput_tps"] == pytest.approx(55 / 5.0)


async def test_gaps_between_requests_are_not_busy() -> None:
    bench = Bench()
    for at, duration in ((1002.0, 1.0), (1005.0, 1.0), (1005.5, 1.0), (1008.0, 4.0)):
        bench.now = at
        bench.settle(duration_s=duration)
    await bench.measurement.flush()
    # 1001-1002, then 1004-1008: the last one bridges the gap before it.
    assert bench.sink.window(1000.0).busy_s == pytest.approx(5.0)


async def test_writing_twice_counts_once() -> None:
    bench = Bench()
    bench.settle()
    await bench.measurement.flush()
    await bench.measurement.flush()
    assert bench.sink.writes == 1
    bench.settle()
    await bench.measurement.flush()
    assert bench.sink.window(1000.0).requests == 2


async def test_a_killed_replica_loses_only_what_it_had_not_written() -> None:
    bench = Bench()
    for _ in range(3):
        bench.settle()
    await bench.measurement.flush()
    bench.settle()
    # Killed here. Its successor counts the same window from zero, under a key of its own.
    successor = bench.replica()
    for _ in range(4):
        bench.settle(measurement=successor)
    await successor.flush()
    await successor.flush()
    assert bench.sink.window(1000.0).requests == 7


async def test_windows_that_ended_are_written_and_forgotten() -> None:
    bench = Bench()
    bench.settle()
    bench.now += WINDOW_S
    bench.settle()
    await bench.measurement.flush()
    assert [bench.sink.window(at).requests for at in (1000.0, 1010.0)] == [1, 1]
    assert len(bench.measurement._open) == 1


async def test_a_clock_set_back_reopens_no_window() -> None:
    bench = Bench()
    bench.settle()
    bench.now += WINDOW_S
    bench.settle()
    await bench.measurement.flush()
    bench.now -= WINDOW_S
    bench.settle()
    await bench.measurement.flush()
    assert [bench.sink.window(at).requests for at in (1000.0, 1010.0)] == [1, 2]
    assert bench.sink.window(1010.0).busy_s < WINDOW_S


async def test_a_write_that_fails_is_made_up_for() -> None:
    bench = Bench()
    for fault in (DatabaseUnavailable("PostgreSQL cannot be reached"), ValueError("a fault")):
        bench.settle()
        bench.sink.fault = fault
        with pytest.raises(type(fault)):
            await bench.measurement.flush()
    bench.now += WINDOW_S
    bench.sink.fault = None
    await bench.measurement.flush()
    assert bench.sink.window(1000.0).requests == 2


async def test_the_background_writer_survives_faults_and_ends_with_a_write() -> None:
    bench = Bench()
    bench.sink.fault = ValueError("a fault")
    async with bench.measurement.flush_periodically():
        bench.settle()
        await asyncio.sleep(0.05)
        assert not bench.sink.rows
        bench.sink.fault = None
        await asyncio.wait_for(bench.sink.written.wait(), 5)
        bench.settle()
    assert bench.sink.window(1000.0).requests == 2


async def test_memory_is_bounded_while_nothing_can_be_written() -> None:
    bench = Bench()
    for revision in range(MAX_OPEN + 50):
        bench.settle(app_name=f"engine-00000000-r{revision}")
    bench.settle(app_name="nameless")
    assert len(bench.measurement._open) == MAX_OPEN
    assert len(bench.meter.settled) == MAX_OPEN + 51
    for exponent in range(-400, 400):
        bench.settle(ttft_s=math.exp(exponent), duration_s=math.exp(exponent), app_name="e-r0")
    (statistics,) = [o.statistics for k, o in bench.measurement._open.items() if k[2] == 0]
    assert len(statistics.ttft_ms.counts) <= 1400


def test_settling_costs_microseconds() -> None:
    bench = Bench()
    bench.settle()
    # Time of this thread: other processes may take the core away meanwhile.
    start = time.thread_time()
    for number in range(5000):
        bench.now += 0.001
        bench.settle(ttft_s=0.01 + number * 1e-5)
        bench.now = min(bench.now, 1009.0)
    spent = (time.thread_time() - start) / 5000
    # 5 to 10 µs on a quiet core, the test's own objects included.
    assert spent < 200e-6


async def test_the_gateway_measures_streams(
    make_stand: Callable[..., Stand],
) -> None:
    stand, bench = make_stand(), Bench()
    stand.engine.first_s, stand.engine.gap_s = 0.05, 0.03
    app = create_gateway(
        database=stand.database,
        authenticator=stand.authenticator,
        routing=stand.app.state.plane.routing,
        upstream=stand.upstream,
        meter=bench.measurement,
        settings=HttpSettings(),
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        for stream in (True, True, False):
            body = CHAT | {"stream": stream}
            response = await client.post(
                "/chat/completions", json=body, headers={"authorization": "Bearer good"}
            )
            assert response.status_code == 200
    await bench.measurement.flush()
    found = bench.sink.window(1000.0)
    assert (found.requests, found.n, found.output_total) == (3, 2, 9)
    assert 45 < found.actual()["ttft_p50_ms"] < 120
    assert 20 < found.actual()["tpot_ms"] < 80
