"""A short load test of any OpenAI-compatible server: a few concurrencies, one after the other.

Closed loop: so many requests are always in flight. Each level warms up until every client has
finished one request, then measures; what is still running at the end is cancelled, so the load is
the same from the first measured moment to the last. Prompts are random, so that no prefix cache
answers them, and output lengths vary by a quarter, so that clients do not march in step.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from foundry.enumeration import name_first
from foundry.errors import (
    EngineFailed,
    FoundryError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from foundry.sdk._errors import from_transport

_ERRORS: dict[int, type[FoundryError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: PermissionDenied,
    404: ModelNotFound,
    429: Overloaded,
    503: Unavailable,
}
_WORDS = ("alpha", "river", "seven", "cloud", "stone", "green", "north", "paper", "light", "metal")
_EXCERPT_CHARS = 200
_PAUSE_AFTER_ERROR_S = 0.2
# More failures than this share of the requests end a level, and the test with it.
MAX_ERROR_SHARE = 0.2
_TOLERATED_ERRORS = 3
MIN_SAMPLES = 5
# A level gains this share of its added concurrency in throughput, or the server is saturated.
SATURATED_GAIN = 0.1
# As many as one report to the server may hold.
MAX_LEVELS = 32


@dataclass(frozen=True, slots=True)
class Plan:
    """How a load test is run.

    Attributes:
        concurrency: levels, tested in ascending order.
        requests: measured at each level.
        input_tokens, output_tokens: per request, about; outputs vary by a quarter.
        level_s: a level ends after so many seconds with what it has; MIN_SAMPLES is the least.
    """

    concurrency: tuple[int, ...] = (1, 4, 8)
    requests: int = 32
    input_tokens: int = 128
    output_tokens: int = 64
    level_s: float = 180.0
    timeout_s: float = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.concurrency or min(self.concurrency) < 1 or max(self.concurrency) > 1024:
            raise InvalidRequest("concurrency: give levels between 1 and 1024, like 1,4,8")
        if len(set(self.concurrency)) > MAX_LEVELS:
            raise InvalidRequest(f"concurrency: give at most {MAX_LEVELS} levels, like 1,4,8")
        if not MIN_SAMPLES <= self.requests <= 10_000:
            raise InvalidRequest(f"requests: between {MIN_SAMPLES} and 10000 at each level")
        if self.input_tokens < 1 or self.output_tokens < 2:
            raise InvalidRequest("input needs a token, and output two: TPOT is the time between")


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered request; seconds from sending to the first token, and to the end."""

    input_tokens: int
    output_tokens: int
    ttft_s: float
    duration_s: float

    @property
    def tpot_s(self) -> float:
        return (self.duration_s - self.ttft_s) / max(self.output_tokens - 1, 1)


@dataclass(frozen=True, slots=True)
class Level:
    """What was measured at one number of requests in flight.

    Attributes:
        duration_s: of the measured part.
        errors: messages of the requests that failed.
        saturated: more clients only wait longer.
        aborted: too many requests failed; its numbers are of the survivors.
    """

    concurrency: int
    started_at: datetime
    duration_s: float
    samples: tuple[Sample, ...]
    errors: tuple[str, ...] = ()
    saturated: bool = False
    aborted: bool = False

    @property
    def throughput_tps(self) -> float:
        """Output tokens/s."""
        return sum(sample.output_tokens for sample in self.samples) / self.duration_s

    def quantile(self, name: str, q: float) -> float:
        """The quantile of a field of the samples, by the nearest rank."""
        values = sorted(float(getattr(sample, name)) for sample in self.samples)
        return values[min(round(q * (len(values) - 1)), len(values) - 1)]


@dataclass(slots=True)
class _Progress:
    """One level while it runs."""

    wanted: int
    concurrency: int
    warm: set[int] = field(default_factory=set)
    samples: list[Sample] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def answered(self, client: int, sample: Sample) -> None:
        if len(self.warm) == self.concurrency:
            self.samples.append(sample)
            self.ended = time.monotonic()
            if len(self.samples) >= self.wanted:
                self.done.set()
            return
        self.warm.add(client)
        if len(self.warm) == self.concurrency:
            self.began = time.monotonic()

    def failed(self, message: str) -> None:
        self.errors.append(message)
        if self.hopeless:
            self.done.set()

    @property
    def hopeless(self) -> bool:
        allowed = MAX_ERROR_SHARE * (len(self.samples) + len(self.warm) + len(self.errors))
        return len(self.errors) > max(_TOLERATED_ERRORS, allowed)


class LoadTest:
    """Puts load on a server and measures its answers.

    Args:
        http: its base URL ends with `/v1`, its headers carry the key.
        model: as requests name it.

    Attributes:
        shortfall: why the test ended before its last level, or with survivors only; None: it did
            not.
    """

    def __init__(self, http: httpx.AsyncClient, model: str, plan: Plan) -> None:
        self._http = http
        self._model = model
        self._plan = plan
        self._random = random.Random(plan.seed)
        self.shortfall: EngineFailed | None = None
        # Keeps output lengths as asked for; servers other than vLLM may refuse the field.
        self._extra: dict[str, object] = {"ignore_eos": True}

    async def run(self, on_level: Callable[[Level], None] | None = None) -> list[Level]:
        """The levels, in ascending order; ends after one that was aborted.

        Raises:
            FoundryError: the first request was refused: key, model or address are wrong.
            EngineFailed: a level measured too little to say anything.
        """
        await self._warm_up()
        levels: list[Level] = []
        for concurrency in sorted(set(self._plan.concurrency)):
            level = await self._run_level(concurrency, levels[-1] if levels else None)
            if len(level.samples) < MIN_SAMPLES:
                self.shortfall = _make_too_few_error(level)
                if not levels:
                    raise self.shortfall
                break
            levels.append(level)
            if on_level is not None:
                on_level(level)
            if level.aborted:
                self.shortfall = _make_failures_error(level)
                break
        return levels

    async def _warm_up(self) -> None:
        try:
            await self._request(2)
        except InvalidRequest as error:
            if "ignore_eos" not in error.message and "extra" not in error.message.lower():
                raise
            self._extra = {}
            await self._request(2)

    async def _run_level(self, concurrency: int, before: Level | None) -> Level:
        progress = _Progress(self._plan.requests, concurrency)
        started_at = datetime.now(UTC)
        clients = [
            asyncio.create_task(self._keep_asking(number, progress))
            for number in range(concurrency)
        ]
        try:
            async with asyncio.timeout(self._plan.level_s):
                await progress.done.wait()
        except TimeoutError:
            progress.done.set()
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
        level = Level(
            concurrency=concurrency,
            started_at=started_at,
            duration_s=max(progress.ended - progress.began, 1e-9),
            samples=tuple(progress.samples),
            errors=tuple(progress.errors),
            aborted=progress.hopeless,
        )
        return _judge_level(level, before)

    async def _keep_asking(self, number: int, progress: _Progress) -> None:
        while not progress.done.is_set():
            spread = self._random.uniform(0.75, 1.25)
            try:
                sample = await self._request(max(round(self._plan.output_tokens * spread), 2))
            except FoundryError as error:
                progress.failed(error.message)
                await asyncio.sleep(_PAUSE_AFTER_ERROR_S)
            else:
                progress.answered(number, sample)

    async def _request(self, output_tokens: int) -> Sample:
        """One request, from its start to its last token.

        Raises FoundryError: refused, interrupted or too slow.
        """
        body = {
            "model": self._model,
            "prompt": self._write_prompt(),
            "max_tokens": output_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._extra,
        }
        start = time.monotonic()
        try:
            async with asyncio.timeout(self._plan.timeout_s):
                return await self._read_stream(body, start)
        except TimeoutError as error:
            raise Unavailable(f"no answer within {self._plan.timeout_s:g} s") from error
        except httpx.HTTPError as error:
            raise from_transport(error, str(self._http.base_url)) from error

    async def _read_stream(self, body: dict[str, Any], start: float) -> Sample:
        first: float | None = None
        usage: dict[str, int] | None = None
        async with self._http.stream("POST", "completions", json=body) as response:
            if not response.is_success:
                raise _make_refusal(response.status_code, await response.aread())
            async for event in _read_events(response):
                if event.get("choices") and first is None:
                    first = time.monotonic()
                usage = event.get("usage") or usage
        end = time.monotonic()
        if first is None or not usage or usage.get("completion_tokens", 0) < 1:
            raise EngineFailed("the stream ended without a token, or without its usage")
        return Sample(
            usage.get("prompt_tokens", 0), usage["completion_tokens"], first - start, end - start
        )

    def _write_prompt(self) -> str:
        return " ".join(self._random.choices(_WORDS, k=self._plan.input_tokens))


async def _read_events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The events of a streamed answer.

    Raises EngineFailed: the stream reports an error, is damaged, or ends before its end.
    """
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise EngineFailed(f"the stream holds no JSON: {data[:_EXCERPT_CHARS]}") from error
        if not isinstance(event, dict) or "error" in event:
            raise EngineFailed(f"the answer was interrupted: {data[:_EXCERPT_CHARS]}")
        yield event
    raise EngineFailed("the stream ended before the answer did")


def _make_refusal(status: int, raw: bytes) -> FoundryError:
    text = raw.decode(errors="replace")
    try:
        message = str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        message = text[:_EXCERPT_CHARS] or "no reason given"
    kind = _ERRORS.get(status, EngineFailed if status >= 500 else InvalidRequest)
    return kind(f"the server answered {status}: {message}")


def _judge_level(level: Level, before: Level | None) -> Level:
    """The level, with its verdict beside the one before it."""
    if before is None or not level.samples:
        return level
    added = level.concurrency / before.concurrency - 1
    gained = level.throughput_tps / before.throughput_tps - 1
    return Level(
        level.concurrency,
        level.started_at,
        level.duration_s,
        level.samples,
        level.errors,
        saturated=gained < SATURATED_GAIN * added,
        aborted=level.aborted,
    )


def _make_too_few_error(level: Level) -> EngineFailed:
    because = _name_reasons(level) or "they took too long: give the test more time, or less output"
    return EngineFailed(
        f"only {len(level.samples)} requests were answered at concurrency {level.concurrency}: "
        f"{because}"
    )


def _make_failures_error(level: Level) -> EngineFailed:
    return EngineFailed(
        f"{len(level.errors)} requests failed at concurrency {level.concurrency}, which ended the "
        f"test: {_name_reasons(level)}"
    )


def _name_reasons(level: Level) -> str:
    """The first few, each once."""
    return name_first(sorted(set(level.errors)), 3, between="; ")


def by_error(levels: Sequence[Level]) -> dict[str, int]:
    """How often each message was met."""
    counts: dict[str, int] = {}
    for level in levels:
        for message in level.errors:
            counts[message] = counts.get(message, 0) + 1
    return counts
