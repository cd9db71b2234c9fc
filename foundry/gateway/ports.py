"""What the gateway needs of others: routing, engines, metering."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from foundry.governance.identity.domain import Principal
from foundry.infra.wire.frames import CallContext, Frame, Operation, Tail
from foundry.serving.endpoints.domain import ServedModel, Target


class Routing(Protocol):
    async def resolve(self, principal: Principal, model: str) -> Target:
        """Raises ModelNotFound, NoHealthyUpstream (its base is not running)."""

    async def list_models(self, principal: Principal) -> Sequence[ServedModel]: ...


class Upstream(Protocol):
    """Engines by application name."""

    def stream(
        self, app_name: str, operation: Operation, body: bytes, context: CallContext
    ) -> AsyncIterator[Frame]:
        """Frames of one call; closing the iterator cancels the call.

        Raises (while iterated):
            NoHealthyUpstream: no replica takes the call.
            Overloaded: the queue is full.
            EngineFailed: the replica died or broke its answer.
        """


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of one request, however it ended; exactly one per dispatched request.

    Attributes:
        tail: None when the answer was refused, cut or cancelled.
        outcome: `ok`, `cancelled`, `truncated` or the error's code.
        streamed: only then is `ttft_s` the first token's; otherwise it is the whole answer's.
        ttft_s: arrival to the first bytes of the answer; None when there were none.
        duration_s: arrival to the end.
    """

    request_id: str
    principal: Principal
    target: Target
    operation: Operation
    tail: Tail | None
    outcome: str
    streamed: bool
    attempts: int
    ttft_s: float | None
    duration_s: float


class Meter(Protocol):
    def settle(self, settlement: Settlement) -> None: ...
