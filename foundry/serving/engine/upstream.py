"""The gateway's way to engine applications: Ray Serve handles."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
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

from foundry.errors import EngineFailed, FoundryError, NoHealthyUpstream, Overloaded
from foundry.infra.wire.frames import CallContext, Frame, Operation, decode

MAX_HANDLES = 256
ACCEPT_TIMEOUT_S = 30.0


class HandleUpstream:
    """Calls the `llm` deployment of an application.

    Args:
        deployment: name of the engine deployment inside its application.
        accept_timeout_s: how long a call may wait for a replica to take it.
    """

    def __init__(self, deployment: str, *, accept_timeout_s: float = ACCEPT_TIMEOUT_S) -> None:
        self._deployment = deployment
        self._accept_timeout_s = accept_timeout_s
        self._handles: OrderedDict[str, Any] = OrderedDict()

    async def stream(
        self, app_name: str, operation: Operation, body: bytes, context: CallContext
    ) -> AsyncIterator[Frame]:
        """Frames of one call; closing the iterator cancels the call.

        Raises:
            NoHealthyUpstream: no replica takes the call.
            Overloaded: the queue is full.
            EngineFailed: the replica died or broke its answer.
        """
        async with aclosing(self._messages(app_name, operation, body, context)) as messages:
            async for message in messages:
                for frame in decode(message):
                    yield frame

    async def _messages(
        self, app_name: str, operation: Operation, body: bytes, context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        call = self._handle(app_name).stream.remote(operation, body, context)
        try:
            # The first message only says that a replica has accepted the call.
            async with asyncio.timeout(self._accept_timeout_s):
                accepted = await anext(call)
            yield accepted
            async for message in call:
                yield message
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise _unavailable(app_name) from error
        # Ray translates only gRPC's UNAVAILABLE; a killed replica can also reset the stream.
        except (RayError, RayServeException, AioRpcError) as error:
            raise _translated(app_name, error) from error
        finally:
            call.cancel()

    def _handle(self, app_name: str) -> Any:
        handle = self._handles.pop(app_name, None)
        if handle is None:
            handle = serve.get_deployment_handle(self._deployment, app_name=app_name)
            handle = handle.options(stream=True)
        self._handles[app_name] = handle
        if len(self._handles) > MAX_HANDLES:
            self._handles.popitem(last=False)
        return handle


def _unavailable(app_name: str) -> NoHealthyUpstream:
    return NoHealthyUpstream(
        f"no replica of {app_name} takes requests; see `foundry endpoints list`"
    )


def _translated(app_name: str, error: Exception) -> FoundryError:
    if isinstance(error, BackPressureError):
        return Overloaded("the engine's queue is full; retry after a moment")
    if isinstance(error, DeploymentUnavailableError):
        return _unavailable(app_name)
    cause = getattr(error, "cause", None)
    if isinstance(cause, FoundryError):
        return cause
    if isinstance(error, RayActorError | RequestCancelledError | AioRpcError):
        return EngineFailed("the engine's replica died; a new one is being started")
    return EngineFailed(f"the engine broke its answer: {type(error).__name__}")
