"""The parameters of an answer: which values the engine takes, told before it is asked.

The limits are the engine's (vLLM's `SamplingParams` and request models), which are OpenAI's where
both have one; the engine's own words for them name its library's classes and variables. A
parameter that is null is unset. What is not listed here the engine judges.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from foundry.errors import InvalidRequest
from foundry.infra.wire.frames import Operation

MAX_STOPS = 4
# Prompts of one request to /v1/completions.
MAX_PROMPTS = 1024
_SHOWN_CHARS = 64
_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class _Range:
    """Numbers that a parameter takes.

    Attributes:
        low, high: None: there is no such bound.
        above: `low` itself is not among them.
        whole: only whole numbers are.
    """

    low: int
    high: int | None = None
    above: bool = False
    whole: bool = False

    def holds(self, value: object) -> bool:
        # JSON's true is no number, though Python's is.
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        # 1e3 is a whole number to JSON.
        if self.whole and isinstance(value, float) and not value.is_integer():
            return False
        reaches = value > self.low if self.above else value >= self.low
        return reaches and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.above:
            end = "" if self.high is None else f" and at most {self.high}"
            return f"{kind} above {self.low}{end}"
        if self.high is None:
            return f"{kind} of at least {self.low}"
        return f"{kind} from {self.low} to {self.high}"


_TOKENS = _Range(1, whole=True)
_LOGPROBS = _Range(0, 20, whole=True)
RANGES: Mapping[str, _Range] = {
    "temperature": _Range(0, 2),
    "top_p": _Range(0, 1, above=True),
    "min_p": _Range(0, 1),
    # -1 and 0: all tokens.
    "top_k": _Range(-1, whole=True),
    "presence_penalty": _Range(-2, 2),
    "frequency_penalty": _Range(-2, 2),
    "repetition_penalty": _Range(0, above=True),
    "max_tokens": _TOKENS,
    "max_completion_tokens": _TOKENS,
    "min_tokens": _Range(0, whole=True),
    "n": _Range(1, 16384, whole=True),
    "seed": _Range(-_INT64, _INT64 - 1, whole=True),
    "top_logprobs": _LOGPROBS,
}


def check_sampling(body: Mapping[str, Any], operation: Operation) -> None:
    """Refuse what the engine would.

    Raises:
        InvalidRequest: names the first such parameter, what it takes and what was sent.
    """
    for name, allowed in RANGES.items():
        value = body.get(name)
        if value is None or allowed.holds(value) or _only_echoes(name, body, operation):
            continue
        raise _refusal(name, str(allowed), value)
    _check_logprobs(body.get("logprobs"), operation)
    _check_stop(body.get("stop"))
    _check_pairs(body, operation)


def check_prompt(prompt: object) -> None:
    """Refuse what is no text, no list of texts and no list of tokens.

    Raises:
        InvalidRequest: it is none, or empty.
    """
    if prompt is None:
        raise InvalidRequest("prompt is required", param="prompt")
    if not isinstance(prompt, str | list):
        raise _refusal("prompt", "a string or an array of strings", prompt)
    if not prompt:
        raise InvalidRequest("prompt must not be empty", param="prompt")
    if isinstance(prompt, list) and not isinstance(prompt[0], int) and len(prompt) > MAX_PROMPTS:
        demand = f"prompt must have at most {MAX_PROMPTS} items, not {len(prompt)}"
        raise InvalidRequest(demand, param="prompt")


def _only_echoes(name: str, body: Mapping[str, Any], operation: Operation) -> bool:
    """A completion that repeats its prompt may end there."""
    return (
        operation == "completions"
        and name == "max_tokens"
        and body[name] == 0
        and body.get("echo") is True
    )


def _check_logprobs(value: object, operation: Operation) -> None:
    if value is None:
        return
    if operation == "chat":
        if not isinstance(value, bool):
            raise _refusal("logprobs", "true or false (top_logprobs says how many)", value)
    elif not _LOGPROBS.holds(value):
        raise _refusal("logprobs", str(_LOGPROBS), value)


def _check_stop(stop: object) -> None:
    texts = [stop] if isinstance(stop, str) else stop
    if texts is None:
        return
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _refusal("stop", "a string or an array of strings", stop)
    if len(texts) > MAX_STOPS:
        demand = f"stop must have at most {MAX_STOPS} texts, not {len(texts)}"
        raise InvalidRequest(demand, param="stop")
    if "" in texts:
        raise InvalidRequest("stop must not be empty: leave it out to stop nowhere", param="stop")


def _check_pairs(body: Mapping[str, Any], operation: Operation) -> None:
    """Parameters that fit alone, and not together."""
    for name, fault in _PAIRS.items():
        if (reason := fault(body, operation)) is not None:
            raise InvalidRequest(f"{name} {reason}", param=name)


def _find_too_many_choices(body: Mapping[str, Any], operation: Operation) -> str | None:
    n = body.get("n")
    if n is None or n == 1 or body.get("temperature") != 0:
        return None
    return f"must be 1 where temperature is 0, not {n}: all answers would be alike"


def _find_tokens_beyond(body: Mapping[str, Any], operation: Operation) -> str | None:
    least = body.get("min_tokens")
    for name in ("max_completion_tokens", "max_tokens"):
        most = body.get(name)
        if least is not None and most is not None and least > most > 0:
            return f"must be at most {name}, which is {most}, not {least}"
    return None


def _find_lone_top_logprobs(body: Mapping[str, Any], operation: Operation) -> str | None:
    if operation == "chat" and body.get("top_logprobs") and not body.get("logprobs"):
        return "goes with logprobs: true"
    return None


def _find_lone_stream_options(body: Mapping[str, Any], operation: Operation) -> str | None:
    if body.get("stream_options") and not body.get("stream"):
        return "goes with stream: true"
    return None


# By the parameter that is refused: why, if it is.
_PAIRS: Mapping[str, Callable[[Mapping[str, Any], Operation], str | None]] = {
    "n": _find_too_many_choices,
    "min_tokens": _find_tokens_beyond,
    "top_logprobs": _find_lone_top_logprobs,
    "stream_options": _find_lone_stream_options,
}


def _refusal(name: str, demand: str, value: object) -> InvalidRequest:
    sent = orjson.dumps(value).decode()
    shown = sent if len(sent) <= _SHOWN_CHARS else f"{sent[:_SHOWN_CHARS]}…"
    return InvalidRequest(f"{name} must be {demand}, not {shown}", param=name)
