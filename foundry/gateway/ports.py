"""What the gateway needs of others: routing, engines, metering."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol

from foundry.governance.identity.domain import Principal
from foundry.infra.http.scopes import Stage
from foundry.infra.wire.frames import CallContext, Frame, Operation, Usage
from foundry.serving.endpoints.domain import ServedModel, Target


class Routing(Protocol):
    async def resolve(self, principal: Principal, model: str) -> Target:
        """Find what answers under the name `model`.

        Raises:
            ModelNotFound: the caller's project has no such model.
            NoHealthyUpstream: its base is not running.
        """

    async def list_models(self, principal: Principal) -> Sequence[ServedModel]:
        """List what `resolve` would find."""


class Upstream(Protocol):
    """Engines by application name."""

    def stream(
        self, app_name: str, operation: Operation, body: bytes, context: CallContext
    ) -> AsyncIterator[Frame]:
        """Stream the frames of one call; closing the iterator cancels the call.

        Raises (while iterated):
            NoHealthyUpstream: no replica has taken the call; it may be sent elsewhere.
            Overloaded: the queue is full; it may be sent elsewhere.
            EngineFailed: the replica that had taken it died or broke its answer.
        """


class End(StrEnum):
    """How a request ended: each has exactly one.

    `finished`: the whole answer was handed on. `refused`: an error before any of it, which the
    request or the load explains. `engine_died`: the engine that had taken it broke off.
    `shut_down`: this gateway stopped before the answer was complete.
    """

    FINISHED = "finished"
    REFUSED = "refused"
    DEADLINE_BEFORE_FIRST_BYTE = "deadline_before_first_byte"
    DEADLINE_AFTER_FIRST_BYTE = "deadline_after_first_byte"
    CLIENT_LEFT = "client_left"
    ENGINE_DIED = "engine_died"
    SHUT_DOWN = "shut_down"
    INTERNAL = "internal"


RequestOperation = Operation | Literal["models", "other"]


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of one request; exactly one per request that is not a probe.

    Attributes:
        principal: None when the request was not authenticated.
        target: None unless an engine was asked.
        operation: what was asked for, `models` and `other` included.
        stage: where the request ended.
        status: of the answer; None when nobody received one.
        usage: tokens, those generated so far of an answer that broke off; None when no engine
            told any.
        code: of the error that ended it; None without one.
        streamed: only then is `ttft_s` the first token's; otherwise it is the whole answer's.
        ttft_s: arrival to the first bytes of the answer; None when there were none.
        duration_s: arrival to the end.
    """

    request_id: str
    principal: Principal | None
    target: Target | None
    operation: RequestOperation
    end: End
    stage: Stage
    status: int | None
    code: str | None
    usage: Usage | None
    streamed: bool
    attempts: int
    ttft_s: float | None
    duration_s: float


class Meter(Protocol):
    def settle(self, settlement: Settlement) -> None:
        """Count one request that has ended."""
