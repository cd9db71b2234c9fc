"""Frames between a gateway and an engine replica: bytes over one streaming call.

| kind | payload | rule |
|---|---|---|
| HEAD `H` | JSON of `Head` | first; sent when a token or an error exists |
| DATA `D` | whole SSE events without `[DONE]`, or the JSON body | any number |
| PROGRESS `P` | two numbers: prompt and completion tokens so far | before the DATA they count |
| TAIL `T` | JSON of `Tail` | exactly one, last; without it the stream was cut |

On the wire a frame is its kind, four bytes of length (big endian) and the payload. Frames that are
ready together share one message, because a message costs far more than a frame. An empty message
says that the replica has accepted the call.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import orjson

from foundry.errors import EngineFailed, FoundryError

Operation = Literal["chat", "completions"]

_HEADER = struct.Struct(">BI")
_PROGRESS = struct.Struct(">II")


class Kind(IntEnum):
    HEAD = ord("H")
    DATA = ord("D")
    PROGRESS = ord("P")
    TAIL = ord("T")


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    payload: bytes


def encode_frames(frames: Iterable[Frame]) -> bytes:
    """Join frames into one message."""
    return b"".join(
        part
        for frame in frames
        for part in (_HEADER.pack(frame.kind, len(frame.payload)), frame.payload)
    )


def decode_frames(message: bytes) -> Iterator[Frame]:
    """Split one message into its frames.

    Raises:
        EngineFailed: the message is not made of whole frames.
    """
    at = 0
    while at < len(message):
        try:
            kind, size = _HEADER.unpack_from(message, at)
            frame = Frame(Kind(kind), message[at + _HEADER.size : at + _HEADER.size + size])
        except (struct.error, ValueError) as error:
            raise EngineFailed("the engine sent a damaged frame") from error
        if len(frame.payload) != size:
            raise EngineFailed("the engine sent a frame that ends early")
        yield frame
        at += _HEADER.size + size


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a call carries besides the body.

    Attributes:
        request_id: the gateway's UUIDv7.
        model: the name the client asked for; answers repeat it.
        deadline_s: seconds left when the call was sent. Two hosts' clocks are never compared.
        adapter_uid: the adapter's name inside the engine; None asks the base.
        adapter_version_id: registry version of that adapter.
    """

    request_id: str
    model: str
    deadline_s: float
    adapter_uid: str | None = None
    adapter_version_id: str | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """A FoundryError on the wire."""

    code: str
    message: str
    details: dict[str, Any]

    @classmethod
    def from_error(cls, error: FoundryError) -> "Fault":
        return cls(error.code, error.message, error.details)

    def to_error(self) -> FoundryError:
        """Make the error again; one with a code of another release becomes a FoundryError."""
        return _classes_by_code().get(self.code, FoundryError)(self.message, **self.details)


def _classes_by_code(root: type[FoundryError] = FoundryError) -> dict[str, type[FoundryError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _classes_by_code(child)
    return found


@dataclass(frozen=True, slots=True)
class Head:
    """The answer begins, or `fault` says why it does not.

    The HTTP status follows from the fault's code by the one table in `infra.http.errors`.
    """

    engine: str
    replica_rank: int = 0
    fault: Fault | None = None

    def to_frame(self) -> Frame:
        return Frame(Kind.HEAD, orjson.dumps(self))

    @classmethod
    def from_frame(cls, frame: Frame) -> "Head":
        value = orjson.loads(frame.payload)
        fault = Fault(**value["fault"]) if value["fault"] else None
        return cls(value["engine"], value["replica_rank"], fault)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int

    def to_frame(self) -> Frame:
        """Tell the tokens so far: an answer that breaks off is settled by what was generated."""
        return Frame(Kind.PROGRESS, _PROGRESS.pack(self.prompt_tokens, self.completion_tokens))

    @classmethod
    def from_frame(cls, frame: Frame) -> "Usage":
        try:
            return cls(*_PROGRESS.unpack(frame.payload))
        except struct.error as error:
            raise EngineFailed("the engine sent a damaged frame") from error


@dataclass(frozen=True, slots=True)
class Tail:
    """How the answer ended.

    Attributes:
        usage: what to settle.
        finish: the last choice's finish reason.
        timings: seconds by the replica's monotonic clock: `adapter`, `first`, `total`.
    """

    usage: Usage
    finish: str | None
    timings: dict[str, float]

    def to_frame(self) -> Frame:
        return Frame(Kind.TAIL, orjson.dumps(self))

    @classmethod
    def from_frame(cls, frame: Frame) -> "Tail":
        value = orjson.loads(frame.payload)
        return cls(Usage(**value["usage"]), value["finish"], value["timings"])
