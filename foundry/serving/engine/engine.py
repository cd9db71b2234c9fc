"""What a replica needs of an inference engine."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from foundry.infra.wire.frames import CallContext, Operation, Usage


@dataclass(frozen=True, slots=True)
class Body:
    """A whole answer, not streamed."""

    json: bytes
    usage: Usage
    finish: str | None


@dataclass(frozen=True, slots=True)
class EventStream:
    """A streamed answer.

    Attributes:
        events: SSE events as the engine writes them, each with its `usage` so far at the end, a
            usage chunk and `[DONE]` included.
        engine_model: the model name inside the events, replaced by the client's.
        include_usage: whether the client asked for the usage chunk.
    """

    events: AsyncGenerator[str, None]
    engine_model: str
    include_usage: bool


class Engine(Protocol):
    """One base model with its adapters, able to answer requests."""

    @property
    def name(self) -> str: ...

    async def answer(
        self, operation: Operation, body: bytes, context: CallContext
    ) -> Body | EventStream:
        """Run one OpenAI request.

        Raises:
            InvalidRequest: the request is at fault; ContextLengthExceeded when it is too long.
            Overloaded: the engine's queue is full.
            EngineFailed: the engine is dead.
        """

    async def add_lora(self, uid: str, path: Path) -> None:
        """Make the adapter of directory `path` answer under `uid`.

        Raises:
            InvalidArtifact: the engine cannot load it.
            Overloaded: it has no place for another one.
            ResourceExhausted: it has no memory for another one.
            EngineFailed: it is dead or being stopped.
        """

    async def remove_lora(self, uid: str) -> None:
        """Free the adapter's memory in the engine; an unknown one is no error."""

    async def check_health(self) -> None:
        """Raise when the engine is dead and its replica must be replaced."""
