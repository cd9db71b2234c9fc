"""Frames between a gateway and an engine replica: bytes over one streaming call.

| kind | payload | rule |
|---|---|---|
| HEAD `H` | JSON `{status, error?, replica_rank, engine}` | first, once a token or an error exists |
| DATA `D` | whole SSE events, or the JSON body | any number |
| TAIL `T` | JSON `{usage, finish, timings}` | exactly one, last; without it the stream was cut |
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import orjson

from foundry.errors import EngineFailed

Operation = Literal["chat", "completions"]


class Kind(StrEnum):
    HEAD = "H"
    DATA = "D"
    TAIL = "T"


_KINDS = {kind.value.encode(): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    payload: bytes

    def encode(self) -> bytes:
        return self.kind.value.encode() + self.payload

    @classmethod
    def decode(cls, data: bytes) -> "Frame":
        kind = _KINDS.get(data[:1])
        if kind is None:
            raise EngineFailed(f"the engine sent a frame of unknown kind {data[:1]!r}")
        return cls(kind, data[1:])


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a call carries besides the body.

    Attributes:
        request_id: the gateway's UUIDv7.
        model: the name the client asked for; answers repeat it.
        deadline_s: seconds left when the call was sent. Two hosts' clocks are never compared.
        adapter_uid: the adapter's name inside the engine; None asks the base.
        adapter_version_id: registry version of that adapter.
        include_usage: whether the client asked for the usage chunk of a stream.
        priority: lower runs first.
    """

    request_id: str
    model: str
    deadline_s: float
    adapter_uid: str | None = None
    adapter_version_id: str | None = None
    include_usage: bool = False
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """The answer's status; `error` is OpenAI's error object when `status` >= 400."""

    status: int
    engine: str
    replica_rank: int = 0
    error: dict[str, Any] | None = None

    def frame(self) -> Frame:
        return Frame(Kind.HEAD, orjson.dumps(self))

    @classmethod
    def of(cls, frame: Frame) -> "Head":
        return cls(**orjson.loads(frame.payload))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request; `total_tokens` is their sum."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Tail:
    """How the answer ended.

    Attributes:
        usage: None when the request failed before it was counted.
        finish: the last choice's finish reason, or `error`.
        timings: seconds by the replica's monotonic clock.
    """

    usage: Usage | None
    finish: str | None
    timings: dict[str, float]

    def frame(self) -> Frame:
        return Frame(Kind.TAIL, orjson.dumps(self))

    @classmethod
    def of(cls, frame: Frame) -> "Tail":
        value = orjson.loads(frame.payload)
        usage = Usage(**value["usage"]) if value["usage"] else None
        return cls(usage, value["finish"], value["timings"])
