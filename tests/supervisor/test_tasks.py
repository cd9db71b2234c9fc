"""A step of one thing never delays another's."""

import asyncio

import pytest

from foundry.errors import DatabaseUnavailable, Unavailable
from foundry.supervisor.tasks import KeyedTasks


class Ledger:
    """Counts steps; raises or hangs for the keys it is told to."""

    def __init__(self, **faults: BaseException | None) -> None:
        self.faults, self.steps = faults, [""] * 0
        self.now = 0.0
        self.tasks = KeyedTasks("thing", deadline_s=0.05, clock=lambda: self.now)

    async def step(self, key: str) -> None:
        self.steps.append(key)
        if key in self.faults:
            fault = self.faults[key]
            if fault is None:
                await asyncio.Event().wait()
            else:
                raise fault

    async def offer_all(self, *keys: str) -> None:
        for key in keys:
            self.tasks.offer(key, lambda key=key: self.step(key))  # type: ignore[misc]
        await self.tasks.drain()


# What Ray raises where a thing is gone, late or unknown.
@pytest.mark.parametrize(
    "fault",
    [
        TimeoutError("dashboard"),
        KeyError("app"),
        RuntimeError("Request failed with status code 404: job not found"),
        DatabaseUnavailable("PostgreSQL cannot be reached"),
        None,
    ],
    ids=["timeout", "key", "404", "database", "hangs"],
)
async def test_a_fault_of_one_delays_no_other(fault: BaseException | None) -> None:
    ledger = Ledger(bad=fault)
    await ledger.offer_all("bad", "good")
    await ledger.offer_all("bad", "good")
    assert ledger.steps == ["bad", "good", "good"]
    assert (ledger.tasks.failures_of("bad"), ledger.tasks.failures_of("good")) == (1, 0)


async def test_waits_double_up_to_a_minute_and_a_success_forgets_them() -> None:
    ledger = Ledger(bad=KeyError("app"))
    began = []
    for second in range(200):
        ledger.now = float(second)
        before = len(ledger.steps)
        await ledger.offer_all("bad")
        if len(ledger.steps) > before:
            began.append(second)
    assert began == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert began[-1] - began[-2] == 60.0
    del ledger.faults["bad"]
    ledger.now = 1000.0
    await ledger.offer_all("bad")
    assert ledger.tasks.failures_of("bad") == 0


async def test_a_key_has_one_step_at_a_time() -> None:
    tasks, release, begun = KeyedTasks("thing"), asyncio.Event(), 0

    async def step() -> None:
        nonlocal begun
        begun += 1
        await release.wait()

    assert tasks.offer("a", step)
    await asyncio.sleep(0)
    assert not tasks.offer("a", step)
    release.set()
    await tasks.drain()
    assert begun == 1
    assert tasks.offer("a", step)
    await tasks.drain()
    assert begun == 2


async def test_another_wish_ends_the_wait_after_a_failure() -> None:
    ledger = Ledger(bad=Unavailable("no room"))

    async def offer(wish: str) -> bool:
        begun = ledger.tasks.offer("bad", lambda: ledger.step("bad"), wish)
        await ledger.tasks.drain()
        return begun

    for _ in range(7):
        assert await offer("3 replicas")
        ledger.now += 60.0
    assert await offer("3 replicas")
    assert not await offer("3 replicas")
    assert ledger.tasks.failures_of("bad") == 8
    assert ledger.tasks.list_busy() == {"bad"}
    assert ledger.tasks.list_busy_with("3 replicas") == {"bad"}
    assert ledger.tasks.list_busy_with("stopped") == set()
    assert await offer("stopped")
    # The new wish has a wait of its own, and it is short.
    assert ledger.tasks.failures_of("bad") == 1
    ledger.now += 1.0
    assert await offer("stopped")


async def test_another_wish_cancels_the_step_for_the_old_one() -> None:
    tasks, ends = KeyedTasks("thing"), list[str]()

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async def stop() -> None:
        ends.append("stopped")

    assert tasks.offer("a", hang, "running")
    await asyncio.sleep(0)
    assert not tasks.offer("a", hang, "running")
    await asyncio.sleep(0)
    assert ends == [], "the same wish leaves its step alone"
    assert not tasks.offer("a", stop, "stopped")
    await tasks.drain()
    assert (ends, tasks.failures_of("a")) == (["cancelled"], 0)
    assert tasks.offer("a", stop, "stopped")
    await tasks.drain()
    assert ends == ["cancelled", "stopped"]


async def test_things_that_are_gone_leave_nothing_behind() -> None:
    ledger = Ledger(bad=KeyError("app"), worse=KeyError("app"))
    await ledger.offer_all("bad", "worse")
    ledger.tasks.keep_only({"worse"})
    assert (ledger.tasks.failures_of("bad"), ledger.tasks.failures_of("worse")) == (0, 1)


async def test_closing_cancels_what_runs() -> None:
    tasks = KeyedTasks("thing")
    tasks.offer("a", asyncio.Event().wait)
    await tasks.close()
    await tasks.drain()
    assert tasks.offer("a", asyncio.Event().wait)
    await tasks.close()
