"""What a request passes through after authentication: parse, resolve, call, settle."""

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from foundry.gateway import relay
from foundry.gateway.body import Ask, read_ask
from foundry.gateway.ports import Meter, Routing, Upstream
from foundry.gateway.responses import Disconnected, EventStream, call_headers, until_disconnect
from foundry.infra.wire.frames import Operation

# nginx's number for a client that closed its request; nobody receives it.
_CLIENT_GONE = 499


@dataclass(frozen=True, slots=True)
class Plane:
    """Collaborators of every inference request."""

    routing: Routing
    upstream: Upstream
    meter: Meter
    timeout_s: float

    async def complete(self, http: HttpRequest, operation: Operation) -> Response:
        """Answer one chat or text completion."""
        ask = await read_ask(await http.body(), operation)
        call = relay.Call(await self._resolve(http, operation, ask), self.upstream, self.meter)
        try:
            return await until_disconnect(http.receive, _answer(call, ask))
        except Disconnected:
            return Response(status_code=_CLIENT_GONE)
        finally:
            # A stream settles when its response ends.
            if not call.streaming:
                await call.close()

    async def _resolve(self, http: HttpRequest, operation: Operation, ask: Ask) -> relay.Request:
        state: Any = http.state
        return relay.Request(
            request_id=state.request_id,
            principal=state.principal,
            target=await self.routing.resolve(state.principal, ask.model),
            operation=operation,
            model=ask.model,
            body=ask.raw,
            received_at=state.received_at,
            timeout_s=self.timeout_s,
        )


async def _answer(call: relay.Call, ask: Ask) -> Response:
    await call.open()
    if ask.stream:
        response = EventStream(call)
        call.streaming = True
        return response
    body = await call.collect()
    return Response(body, media_type="application/json", headers=call_headers(call))
