"""The ends of requests that no engine was asked for: refused, left, or answered without one."""

import asyncio

from foundry.errors import FoundryError
from foundry.gateway.ports import End, Meter, RequestOperation, Settlement
from foundry.gateway.relay import end_of
from foundry.infra.http.ends import RequestEnd
from foundry.infra.http.scopes import Stage

# By the path's first segments; everything else is `other`, so that a label stays bounded.
_OPERATIONS: dict[str, RequestOperation] = {
    "/chat/completions": "chat",
    "/completions": "completions",
    "/models": "models",
}


class InferenceEnds:
    """Settles each request that was not dispatched; a dispatched one is settled by its call."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def record_end(self, end: RequestEnd) -> None:
        if end.stage is Stage.DISPATCH:
            return
        self._meter.settle(
            Settlement(
                request_id=end.request_id,
                principal=end.principal,
                target=None,
                operation=_operation_of(end.path),
                end=_name_end(end),
                stage=end.stage,
                status=_status_told(end),
                code=end.error.code if isinstance(end.error, FoundryError) else None,
                usage=None,
                streamed=False,
                attempts=0,
                ttft_s=None,
                duration_s=end.duration_s,
            )
        )


def _operation_of(path: str) -> RequestOperation:
    return "models" if path.startswith("/models/") else _OPERATIONS.get(path, "other")


def _name_end(end: RequestEnd) -> End:
    if end.client_left:
        return End.CLIENT_LEFT
    if isinstance(end.error, asyncio.CancelledError):
        return End.SHUT_DOWN
    if isinstance(end.error, Exception):
        return end_of(end.error, after_first_byte=False)
    if end.status is None or end.status >= 500:
        return End.INTERNAL
    return End.REFUSED if end.status >= 400 else End.FINISHED


def _status_told(end: RequestEnd) -> int | None:
    """What the client was told; a bug is answered outside of the stages, by 500."""
    bug = isinstance(end.error, Exception) and not isinstance(end.error, FoundryError)
    return 500 if end.status is None and bug else end.status
