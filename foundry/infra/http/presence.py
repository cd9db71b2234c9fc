"""Whether a request's client is still there, watched from the arrival to the last byte.

A server tells that a client has hung up by a message, which nobody receives while a request waits
for PostgreSQL or an engine. So a task of its own reads the client's messages ahead, and cancels the
request when that one comes: whatever the request holds, it gives back at once. Servers also cancel
requests themselves, when the client leaves and when they shut down; `has_left` tells these apart.
"""

import asyncio
from typing import cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_DISCONNECT: Message = {"type": "http.disconnect"}


class Client:
    """The client's side of one request.

    At most two messages are read ahead: large bodies wait in the client, not in our memory.
    """

    def __init__(self, receive: Receive) -> None:
        self.left = False
        self._receive = receive
        self._ahead: asyncio.Queue[Message | Exception] = asyncio.Queue(maxsize=1)
        self._watch: asyncio.Task[None] | None = None

    async def receive(self) -> Message:
        """ASGI's `receive` for the application."""
        if self.left and self._ahead.empty():
            return _DISCONNECT
        message = await self._ahead.get()
        if isinstance(message, Exception):
            raise message
        return message

    def watch(self, request: asyncio.Task[None]) -> None:
        """Read ahead until the client leaves, and cancel `request` then."""
        self._watch = asyncio.create_task(self._read_ahead(request), name="client")

    def stop_watching(self) -> None:
        """From now on, the client's leaving cancels nothing."""
        if self._watch is not None:
            self._watch.cancel()

    async def close(self) -> None:
        self.stop_watching()
        if self._watch is not None:
            await asyncio.wait({self._watch})

    async def has_left(self) -> bool:
        """Whether a request that was cancelled was so because its client left.

        What the client had sent before it left and nobody has read is thrown away.
        """
        await self.close()
        try:
            # One turn of the loop: messages that are there need no more.
            async with asyncio.timeout(0):
                while not self.left:
                    self.left = (await self._receive())["type"] == _DISCONNECT["type"]
        except TimeoutError:
            return False
        return True

    async def _read_ahead(self, request: asyncio.Task[None]) -> None:
        while not self.left:
            try:
                message: Message | Exception = await self._receive()
            except Exception as error:  # noqa: BLE001 - raised again where the body is read
                await self._ahead.put(error)
                return
            if cast("Message", message)["type"] == _DISCONNECT["type"]:
                self.left = True
                request.cancel()
            await self._ahead.put(message)


class WatchClient:
    """Ends a request as soon as its client leaves; `state.client` is its `Client`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.setdefault("state", {})["client"] = Client(receive)

        async def send_watched(message: Message) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                # Servers also say "disconnect" to who goes on after a complete answer.
                client.stop_watching()
            await send(message)

        request = cast("asyncio.Task[None]", asyncio.current_task())
        cancelled_before = request.cancelling()
        client.watch(request)
        try:
            try:
                await self._app(scope, client.receive, send_watched)
            finally:
                # Inside: a server may cancel here too, and the client be why.
                await client.close()
        except asyncio.CancelledError:
            # As asyncio.timeout does: only a cancellation of our own ends here.
            ours = client.left and request.uncancel() <= cancelled_before
            await client.has_left()
            if not ours:
                raise
