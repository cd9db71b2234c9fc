"""Residency: single flight, eviction that reaches the engine, backoff."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from foundry.errors import FoundryError, InvalidArtifact, NoHealthyUpstream, Overloaded
from foundry.serving.engine.adapters import ResidentAdapters, State
from tests.fakes.engine import FakeEngine


@dataclass
class FakeSource:
    fetches: list[str] = field(default_factory=list)
    failure: FoundryError | None = None
    seconds: float = 0.0
    running: int = 0
    most_running: int = 0

    async def fetch(self, uid: str, version_id: str) -> Path:
        self.fetches.append(uid)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(self.seconds)
        self.running -= 1
        if self.failure is not None:
            raise self.failure
        return Path("/adapters") / uid


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Bench:
    capacity: int = 2
    engine: FakeEngine = field(default_factory=FakeEngine)
    source: FakeSource = field(default_factory=FakeSource)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.adapters = ResidentAdapters(
            self.engine, self.source, capacity=self.capacity, clock=self.clock
        )

    async def use(self, uid: str) -> None:
        async with self.adapters.lease_adapter(uid, f"version-{uid}"):
            assert uid in self.engine.resident


async def test_a_burst_loads_once() -> None:
    bench = Bench(source=FakeSource(seconds=0.01))
    await asyncio.gather(*(bench.use("a1") for _ in range(50)))
    assert bench.source.fetches == ["a1"]
    assert bench.engine.resident == {"a1": Path("/adapters/a1")}
    assert bench.adapters.states() == {"a1": State.RESIDENT}


async def test_loads_run_four_at_a_time() -> None:
    bench = Bench(capacity=20, source=FakeSource(seconds=0.01))
    await asyncio.gather(*(bench.use(f"a{n}") for n in range(12)))
    assert bench.source.most_running == 4
    assert len(bench.engine.resident) == 12


async def test_the_least_recently_used_leaves_the_engine() -> None:
    bench = Bench()
    for uid in ("a1", "a2", "a1", "a3"):
        await bench.use(uid)
    assert bench.engine.removed == ["a2"]
    assert bench.engine.resident.keys() == {"a1", "a3"}
    await bench.use("a2")
    assert bench.source.fetches == ["a1", "a2", "a3", "a2"]


async def test_an_adapter_in_use_stays() -> None:
    bench = Bench()
    async with AsyncExitStack() as stack:
        for uid in ("a1", "a2"):
            await stack.enter_async_context(bench.adapters.lease_adapter(uid, uid))
        with pytest.raises(Overloaded):
            await bench.use("a3")
        assert bench.engine.removed == []
    await bench.use("a3")
    assert bench.engine.removed == ["a1"]


async def test_parallel_loads_never_exceed_the_capacity() -> None:
    bench = Bench(engine=FakeEngine(add_s=0.005))
    outcomes = await asyncio.gather(*(bench.use(f"a{n}") for n in range(6)), return_exceptions=True)
    assert len(bench.engine.resident) == 2
    assert all(o is None or isinstance(o, Overloaded) for o in outcomes)


async def test_backoff_then_failed_then_recovery() -> None:
    bench = Bench(source=FakeSource(failure=InvalidArtifact("damaged")))
    for attempt, backoff in enumerate([1, 2, 4, 8, 16], start=1):
        for _ in range(3):
            with pytest.raises(NoHealthyUpstream) as refused:
                await bench.use("a1")
        assert "damaged" in refused.value.message
        assert refused.value.details == {"retry_after_s": backoff, "cause": "invalid_artifact"}
        assert len(bench.source.fetches) == attempt
        bench.clock.now += backoff
    assert bench.adapters.states() == {"a1": State.FAILED}
    bench.source.failure = None
    await bench.use("a1")
    assert bench.adapters.states() == {"a1": State.RESIDENT}


async def test_backoff_is_bounded() -> None:
    bench = Bench(source=FakeSource(failure=InvalidArtifact("damaged")))
    for _ in range(15):
        with pytest.raises(NoHealthyUpstream) as refused:
            await bench.use("a1")
        bench.clock.now += 1000
    assert refused.value.details["retry_after_s"] == 300


async def test_a_refused_adapter_takes_no_place() -> None:
    bench = Bench(capacity=1, engine=FakeEngine(add_failure=InvalidArtifact("rank")))
    with pytest.raises(NoHealthyUpstream):
        await bench.use("a1")
    bench.engine.add_failure = None
    await bench.use("a2")
    assert bench.engine.removed == []


async def test_one_callers_leaving_keeps_the_load() -> None:
    bench = Bench(source=FakeSource(seconds=0.02))
    first = asyncio.create_task(bench.use("a1"))
    second = asyncio.create_task(bench.use("a1"))
    await asyncio.sleep(0.005)
    first.cancel()
    await second
    assert bench.source.fetches == ["a1"]


async def test_bookkeeping_is_bounded() -> None:
    bench = Bench(capacity=2)
    for n in range(100):
        await bench.use(f"a{n}")
    assert len(bench.adapters.states()) <= 9
