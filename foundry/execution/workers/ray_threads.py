"""Blocking calls of Ray from a driver's event loop, which renews the lease meanwhile."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import ray

from foundry.errors import Unavailable

T = TypeVar("T")
log = logging.getLogger(__name__)

# Ray's control service answers in milliseconds; while it restarts, its clients wait for it.
CALL_DEADLINE_S = 60.0


def kill_actor(actor: Any) -> None:
    """End an actor without waiting for Ray, which may be restarting; the job's end ends it too."""

    def kill() -> None:
        try:
            ray.kill(actor)
        except Exception:
            # Nobody waits for the outcome: whatever Ray raises ends this thread only.
            log.warning("an actor could not be killed", exc_info=True)

    threading.Thread(target=kill, name="ray-kill", daemon=True).start()


async def call_ray(call: Callable[[], T], *, deadline_s: float = CALL_DEADLINE_S) -> T:
    """What `call` returns, in a thread of its own.

    Not one of asyncio's: at its end a driver would wait for a thread that Ray never lets go.

    Raises:
        Unavailable: Ray did not answer in time; another attempt may find it well.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def hand_over(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = call()
        except Exception as raised:  # noqa: BLE001 - whatever Ray raises is the caller's
            error = raised
        # The driver may have ended while Ray was silent.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(hand_over, result, error)

    threading.Thread(target=run, name="ray-call", daemon=True).start()
    try:
        async with asyncio.timeout(deadline_s):
            return await answer
    except TimeoutError as error:
        if answer.done() and not answer.cancelled():
            raise
        raise Unavailable(f"Ray did not answer within {deadline_s:g} s") from error
