"""What was said so far, and how answers are sampled; no input or output.

begin(prompt) ──> Turn ──> keep(turn, answer)    the exchange is added
begin_again() ──> Turn ──> keep(turn, answer)    it takes the place of the last one
                    └────> nothing: the turn failed, and what was said stays as it was
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from foundry.errors import InvalidRequest

Message = dict[str, str]
# As the gateway has it; a test compares.
MAX_TEMPERATURE = 2


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the server chooses tokens; None: as it does by default.

    Raises:
        InvalidRequest: a value is out of its range.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequest("max_tokens must be at least 1")
        if self.temperature is not None and not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise InvalidRequest(f"temperature must be a number from 0 to {MAX_TEMPERATURE}")

    def apply_settings(self, assignments: str) -> Self:
        """Apply settings like `temperature=0 seed=7`; `seed=` takes a value back.

        Raises:
            InvalidRequest: it is no such assignment.
        """
        values: dict[str, Any] = {}
        for assignment in assignments.split():
            name, separator, text = assignment.partition("=")
            if name not in _PARSERS or not separator:
                names = ", ".join(_PARSERS)
                raise InvalidRequest(f"{assignment} sets nothing: write NAME=VALUE with {names}")
            values[name] = _parse_number(name, text) if text else None
        return replace(self, **values)

    def __str__(self) -> str:
        given = [(item.name, getattr(self, item.name)) for item in fields(self)]
        told = [
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in given
            if value is not None
        ]
        return " ".join(told) or "the server's defaults"


_PARSERS: Mapping[str, Callable[[str], float]] = {
    "max_tokens": int,
    "temperature": float,
    "seed": int,
}


def _parse_number(name: str, text: str) -> float:
    try:
        return _PARSERS[name](text)
    except ValueError as error:
        kind = "a whole number" if _PARSERS[name] is int else "a number"
        raise InvalidRequest(f"{name} must be {kind}") from error


@dataclass(frozen=True, slots=True)
class Exchange:
    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt on its way, and the exchanges that it follows."""

    prompt: str
    before: tuple[Exchange, ...]


class Conversation:
    """What was said so far, and how the next answer is to be made.

    Attributes:
        system: precedes every request; None: nothing does.
    """

    def __init__(self, model: str, system: str | None, sampling: Sampling) -> None:
        self.model = model
        self.system = system
        self.sampling = sampling
        self._exchanges: tuple[Exchange, ...] = ()
        # The last prompt, also one that got no answer.
        self._turn: Turn | None = None

    def begin(self, prompt: str) -> Turn:
        self._turn = Turn(prompt, self._exchanges)
        return self._turn

    def begin_again(self) -> Turn | None:
        """The last prompt once more; None: there was none."""
        return self._turn

    def keep(self, turn: Turn, answer: str) -> None:
        self._exchanges = (*turn.before, Exchange(turn.prompt, answer))

    def clear(self) -> int:
        """Forget the exchanges, but not the last prompt. Returns how many there were."""
        count = len(self._exchanges)
        self._exchanges = ()
        if self._turn is not None:
            self._turn = Turn(self._turn.prompt, ())
        return count

    def list_messages(self, turn: Turn) -> list[Message]:
        """What is sent for a turn."""
        return [*self._write_messages(turn.before), {"role": "user", "content": turn.prompt}]

    def list_kept_messages(self) -> list[Message]:
        """What was said, as a row of a dataset; empty: nothing was."""
        return self._write_messages(self._exchanges) if self._exchanges else []

    def _write_messages(self, exchanges: tuple[Exchange, ...]) -> list[Message]:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for exchange in exchanges:
            messages.append({"role": "user", "content": exchange.prompt})
            messages.append({"role": "assistant", "content": exchange.answer})
        return messages
