"""Blocking calls into Ray, from a loop that must not stop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from foundry.errors import Unavailable

T = TypeVar("T")

# Ray answers in milliseconds; an application is uploaded in less than a second.
CALL_TIMEOUT_S = 30.0
_THREADS = 4


class RayCalls:
    """A pool of threads of its own: a frozen Ray holds these, and no other part's.

    Each of Ray's servers that can freeze alone has one: a dashboard that hangs holds no thread
    with which engines are looked after. While all of them are held a call fails by its deadline,
    and begins to succeed again once Ray has let one go.
    """

    def __init__(
        self,
        name: str = "ray-call",
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        threads: int = _THREADS,
    ) -> None:
        """Make the threads.

        Args:
            name: of its threads, for stack dumps.
        """
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._timeout_s = timeout_s

    async def run(self, call: Callable[[], T]) -> T:
        """The result of `call`.

        Raises:
            Unavailable: Ray raised, or did not answer in time; the call may be repeated.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._pool, call)
        except TimeoutError as error:
            raise Unavailable(f"Ray did not answer within {self._timeout_s:g} s") from error
        # Ray's client libraries also raise plain RuntimeError, ValueError and KeyError.
        except (RayError, RayServeException, RuntimeError, ValueError, KeyError, OSError) as error:
            raise Unavailable(f"Ray answered with {type(error).__name__}") from error

    def close(self) -> None:
        """Do not wait for threads that Ray holds."""
        self._pool.shutdown(wait=False, cancel_futures=True)
