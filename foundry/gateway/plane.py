"""An inference request after authentication: parse, resolve, policy, admit, dispatch, settle."""

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from foundry.errors import PermissionDenied
from foundry.gateway import relay
from foundry.gateway.body import CompletionBody, parse_body_off_loop
from foundry.gateway.ports import Meter, Routing, Upstream
from foundry.gateway.responses import EventStream, headers_of
from foundry.gateway.retries import RetryBudget
from foundry.governance.identity.domain import Principal
from foundry.infra.http.admission import Admission, Admittee
from foundry.infra.http.scopes import Stage, enter_stage
from foundry.infra.wire.frames import Operation
from foundry.serving.endpoints.domain import Target

# The permission of every route of this plane that reaches an engine.
INVOKE = "inference:invoke"


@dataclass(frozen=True, slots=True)
class Plane:
    """Collaborators of every inference request."""

    routing: Routing
    upstream: Upstream
    meter: Meter
    timeout_s: float
    admission: Admission = field(default_factory=Admission)
    budget: RetryBudget = field(default_factory=RetryBudget)

    async def answer_completion(self, http: HttpRequest, operation: Operation) -> Response:
        """Answer one chat or text completion."""
        scope = http.scope
        enter_stage(scope, Stage.BODY)
        body = await parse_body_off_loop(await http.body(), operation)
        request = await self._resolve_model(http, operation, body)
        enter_stage(scope, Stage.ADMISSION)
        stack = await self.admission.admit(
            Admittee(request.request_id, request.principal, INVOKE, body.raw)
        )
        # From here on the call records the end, not the stage around the application.
        enter_stage(scope, Stage.DISPATCH)
        return await self._dispatch_call(request, body, stack)

    async def _resolve_model(
        self, http: HttpRequest, operation: Operation, body: CompletionBody
    ) -> relay.Request:
        state: Any = http.state
        enter_stage(http.scope, Stage.RESOLUTION)
        target = await self.routing.resolve(state.principal, body.model)
        enter_stage(http.scope, Stage.POLICY)
        _check_policy(state.principal, target)
        return relay.Request(
            request_id=state.request_id,
            principal=state.principal,
            target=target,
            operation=operation,
            model=body.model,
            body=body.raw,
            received_at=state.received_at,
            timeout_s=self.timeout_s,
            client=state.client,
        )

    async def _dispatch_call(
        self, request: relay.Request, body: CompletionBody, stack: AsyncExitStack
    ) -> Response:
        call = relay.Call(request, self.upstream, self.meter, self.budget, stack)
        try:
            return await _open_answer(call, body)
        finally:
            # A stream settles when its response ends.
            if not call.streaming:
                await call.close()


def _check_policy(principal: Principal, target: Target) -> None:
    """Refuse a caller who may not use the resolved model, by PermissionDenied."""
    if not principal.policy.allows_model(target.model_name):
        raise PermissionDenied(
            f"this key may not use the model {target.model_name}; "
            "ask an administrator to allow it in the key's policy",
            param="model",
        )


async def _open_answer(call: relay.Call, body: CompletionBody) -> Response:
    await call.open()
    if body.stream:
        response = EventStream(call)
        call.streaming = True
        return response
    payload = await call.collect_body()
    return Response(payload, media_type="application/json", headers=headers_of(call))
