"""The gateway's way to engine applications: Ray Serve handles."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Any

from grpc.aio import AioRpcError  # type: ignore[import-untyped]
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    RequestCancelledError,
)

from foundry.errors import EngineFailed, FoundryError, NoHealthyUpstream
from foundry.infra.wire.frames import CallContext, Frame, Operation, decode_frames
from foundry.serving.engine.refusals import queue_full_error

log = logging.getLogger(__name__)

MAX_HANDLES = 256
ACCEPT_TIMEOUT_S = 30.0
# Opening asks Serve's controller, which blocks: far longer than it takes, far less than a client
# waits.
OPEN_TIMEOUT_S = 5.0
# A controller that hangs holds a thread for each application; more of them wait for these.
_OPEN_THREADS = 4


class HandleUpstream:
    """Calls the `llm` deployment of an application.

    Args:
        deployment: name of the engine deployment inside its application.
        accept_timeout_s: how long a call may wait for a replica to take it.
        open_timeout_s: how long a call may wait for its application's handle.
    """

    def __init__(
        self,
        deployment: str,
        *,
        accept_timeout_s: float = ACCEPT_TIMEOUT_S,
        open_timeout_s: float = OPEN_TIMEOUT_S,
    ) -> None:
        self._deployment = deployment
        self._accept_timeout_s = accept_timeout_s
        self._open_timeout_s = open_timeout_s
        self._handles: OrderedDict[str, Any] = OrderedDict()
        self._opening: dict[str, asyncio.Task[Any]] = {}
        self._threads = ThreadPoolExecutor(_OPEN_THREADS, thread_name_prefix="serve-handle")

    async def stream(
        self, app_name: str, operation: Operation, body: bytes, context: CallContext
    ) -> AsyncIterator[Frame]:
        """Frames of one call; closing the iterator cancels the call.

        Raises:
            NoHealthyUpstream: no replica has taken the call.
            Overloaded: the queue is full.
            EngineFailed: the replica that had taken it died or broke its answer.
        """
        async with aclosing(self._stream_messages(app_name, operation, body, context)) as messages:
            async for message in messages:
                for frame in decode_frames(message):
                    yield frame

    async def _stream_messages(
        self, app_name: str, operation: Operation, body: bytes, context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        handle = await self._find_handle(app_name)
        call = handle.stream.remote(operation, body, context)
        accepted = False
        try:
            # The first message only says that a replica has accepted the call.
            async with asyncio.timeout(self._accept_timeout_s):
                first = await anext(call)
            accepted = True
            yield first
            async for message in call:
                yield message
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise _unavailable_error(app_name) from error
        # Ray translates only gRPC's UNAVAILABLE; a killed replica can also reset the stream.
        except (RayError, RayServeException, AioRpcError) as error:
            raise _translate_error(app_name, error, accepted=accepted) from error
        finally:
            call.cancel()

    async def _find_handle(self, app_name: str) -> Any:
        """The application's handle, opened by one of those that wait for it.

        Raises:
            NoHealthyUpstream: Serve does not know the application, or does not answer.
        """
        handle = self._handles.get(app_name)
        if handle is not None:
            self._handles.move_to_end(app_name)
            return handle
        opening = self._opening.get(app_name)
        if opening is None:
            opening = asyncio.create_task(self._open_handle(app_name), name=f"open-{app_name}")
            self._opening[app_name] = opening
        # Not cancelled with the call: others wait for the same handle, and the next finds it.
        done, _ = await asyncio.wait({opening}, timeout=self._open_timeout_s)
        if not done:
            raise _unavailable_error(app_name)
        try:
            return opening.result()
        except (KeyError, RuntimeError, TimeoutError, RayError, RayServeException) as error:
            raise _unavailable_error(app_name) from error

    async def _open_handle(self, app_name: str) -> Any:
        try:
            opened = await asyncio.get_running_loop().run_in_executor(
                self._threads,
                partial(serve.get_deployment_handle, self._deployment, app_name=app_name),
            )
            # On the loop: a router started here runs on it.
            handle = self._handles[app_name] = opened.options(stream=True)
        finally:
            del self._opening[app_name]
        if len(self._handles) > MAX_HANDLES:
            self._handles.popitem(last=False)
        return handle


def _unavailable_error(app_name: str) -> NoHealthyUpstream:
    return NoHealthyUpstream(
        f"no replica of {app_name} takes requests; see `foundry endpoints list`"
    )


def _translate_error(app_name: str, error: Exception, *, accepted: bool) -> FoundryError:
    if isinstance(error, BackPressureError):
        return queue_full_error()
    if isinstance(error, DeploymentUnavailableError):
        return _unavailable_error(app_name)
    cause = getattr(error, "cause", None)
    if isinstance(cause, FoundryError):
        return cause
    if not accepted:
        # It died before it took this call, which may be sent to another one.
        return _unavailable_error(app_name)
    if isinstance(error, RayActorError | RequestCancelledError | AioRpcError):
        return EngineFailed("the engine's replica died; a new one is being started")
    log.error("an engine of %s broke its answer: %r", app_name, error)
    return EngineFailed("the engine broke its answer; its log has the cause")
