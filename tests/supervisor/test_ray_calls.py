"""Blocking calls into Ray and the loop that waits for them."""

import asyncio
import threading
from functools import partial

import pytest
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from foundry.errors import Unavailable
from foundry.supervisor.ray_calls import RayCalls

RAISED = [
    RayError("oops"),
    RayServeException("no controller"),
    RuntimeError("Request failed with status code 500: oops."),
    ValueError("no such actor"),
    KeyError("app"),
    ConnectionError("refused"),
]


@pytest.mark.parametrize("fault", RAISED, ids=lambda fault: type(fault).__name__)
async def test_what_ray_raises_is_unavailable_with_its_name(fault: Exception) -> None:
    def call() -> None:
        raise fault

    with pytest.raises(Unavailable, match=f"Ray answered with {type(fault).__name__}"):
        await RayCalls().run(call)


async def test_a_frozen_ray_holds_four_threads_and_costs_a_call_its_deadline() -> None:
    calls, release, begun = RayCalls(timeout_s=0.5), threading.Event(), list[int]()

    def freeze(number: int) -> None:
        begun.append(number)
        release.wait(10)

    ended = await asyncio.gather(
        *(calls.run(partial(freeze, number)) for number in range(6)), return_exceptions=True
    )
    assert [str(error) for error in ended] == ["Ray did not answer within 0.5 s"] * 6
    assert len(begun) == 4
    # What was not begun by its deadline never is: nobody waits for it any more.
    release.set()
    assert await calls.run(lambda: "answered") == "answered"
    assert len(begun) == 4


async def test_closing_begins_nothing_that_still_waits_for_a_thread() -> None:
    calls, release, begun = RayCalls(threads=1), threading.Event(), list[str]()
    taken = threading.Event()

    def hold() -> bool:
        taken.set()
        return release.wait(10)

    held = asyncio.create_task(calls.run(hold))
    waits = asyncio.create_task(calls.run(lambda: begun.append("late")))
    assert await asyncio.to_thread(taken.wait, 10)
    calls.close()
    release.set()
    assert await held is True
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert begun == []
