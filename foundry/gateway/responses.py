"""A streamed answer on the wire: server-sent events, pings, and an error event when it is cut."""

import asyncio
import time
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from foundry.errors import DeadlineExceeded, FoundryError
from foundry.gateway.relay import Call

PING_S = 15.0
DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
INTERRUPTED = "stream_interrupted"


def headers_of(call: Call) -> dict[str, str]:
    request = call.request
    elapsed_ms = (time.monotonic() - request.received_at) * 1000
    return {
        "openai-processing-ms": f"{elapsed_ms:.0f}",
        "x-foundry-model-version": f"{request.target.model_name}@{request.target.version}",
        "x-foundry-attempts": str(call.attempts),
    }


class EventStream(Response):
    """Relays an opened call as server-sent events.

    Args:
        ping_s: silence after which a comment shows that the connection lives.
    """

    media_type = "text/event-stream"

    def __init__(self, call: Call, *, ping_s: float = PING_S) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"} | headers_of(call)
        super().__init__(headers=headers)
        # Set by the base class for its empty body.
        del self.headers["content-length"]
        self._call = call
        self._ping_s = ping_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._send_in_time(
                send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            )
            await self._relay_payloads(send)
        except OSError:
            # The server's way to say that nobody receives any more.
            self._call.record_client_left()
        except DeadlineExceeded as error:
            # The client does not read; it cannot be told either.
            self._call.record_failure(error)
        except Exception as error:
            self._call.record_failure(error)
            raise
        finally:
            await self._call.close()

    async def _relay_payloads(self, send: Send) -> None:
        payloads = self._call.stream_payloads()
        try:
            while (payload := await self._next_payload(payloads, send)) is not None:
                await self._send_in_time(send, _body_message(payload))
            last = DONE
        except FoundryError as error:
            self._call.record_failure(error)
            last = _interruption_event(error)
        await self._send_in_time(send, _body_message(last))
        await self._send_in_time(
            send, {"type": "http.response.body", "body": b"", "more_body": False}
        )

    async def _send_in_time(self, send: Send, message: Message) -> None:
        """Send a message, no later than the deadline: a client that does not read ends there.

        A send that need not wait gets through after it too: the last words of a stream.
        """
        async with self._call.within_deadline():
            await send(message)

    async def _next_payload(self, payloads: Any, send: Send) -> bytes | None:
        """Wait for the next payload, None at the end; ping while it takes long."""
        step: asyncio.Task[bytes | None] = asyncio.create_task(anext(payloads, None))
        try:
            while True:
                remaining = self._call.request.remaining_s()
                if remaining <= 0:
                    raise DeadlineExceeded("the request's deadline passed")
                await asyncio.wait({step}, timeout=min(self._ping_s, remaining))
                if step.done():
                    return step.result()
                await self._send_in_time(send, _body_message(PING))
        finally:
            if not step.done():
                step.cancel()
                await asyncio.wait({step})


def _body_message(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


def _interruption_event(error: FoundryError) -> bytes:
    body = {
        "message": f"the answer was interrupted: {error.message}",
        "type": "server_error",
        "param": None,
        "code": INTERRUPTED,
    }
    return b"data: " + orjson.dumps({"error": body}) + b"\n\n"
