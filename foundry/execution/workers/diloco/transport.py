"""Payloads between members: chunks under digests, at a pace.

The receiver pulls, chunk by chunk, so it decides how fast: what controls the fleet is never queued
behind more than a few chunks.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from foundry.errors import FoundryError, InvalidArtifact, Unavailable
from foundry.execution.workers.diloco.messages import Parcel

CHUNK_BYTES = 256 * 1024
# Pulls that wait for their answer at the same time: they hide the latency of a link.
_WINDOW = 4
_PULL_S = 30.0

Plane = Literal["data", "heal"]


class Wire(Protocol):
    """Where chunks lie: Ray's object store, or memory."""

    def put(self, chunk: bytes) -> Any:
        """Hand a chunk out; returns its address. It stays as long as the address is kept."""

    async def get(self, address: Any) -> bytes:
        """Fetch what a parcel names. Raises Unavailable: whoever put it is gone."""


@dataclass(slots=True)
class Traffic:
    """Bytes of payload, by what they are for."""

    sent: int = 0
    received: int = 0
    healed: int = 0


class TokenBucket:
    """Lets through so many bytes a second, and at most one chunk at once."""

    def __init__(
        self,
        bytes_per_second: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._free_at = 0.0

    async def take(self, size: int) -> None:
        """Wait until `size` bytes may be pulled."""
        if self._rate is None:
            return
        now = self._clock()
        start = max(now, self._free_at)
        self._free_at = start + size / self._rate
        if start > now:
            await self._sleep(start - now)


class Courier:
    """Puts payloads out and pulls others' in, checks them and counts their bytes."""

    def __init__(self, wire: Wire, bucket: TokenBucket, pull_s: float = _PULL_S) -> None:
        self._wire = wire
        self._bucket = bucket
        self._pull_s = pull_s
        self.traffic = Traffic()

    def put(self, payload: bytes) -> Parcel:
        """Blocks while the chunks are copied."""
        view = memoryview(payload)
        starts = range(0, len(payload), CHUNK_BYTES)
        chunks = tuple(self._wire.put(bytes(view[s : s + CHUNK_BYTES])) for s in starts)
        return Parcel(chunks, len(payload), hashlib.sha256(payload).hexdigest())

    async def pull(self, parcel: Parcel, plane: Plane = "data") -> bytes:
        """Fetch a parcel chunk by chunk.

        Raises:
            InvalidArtifact: what came is not what was put out.
            Unavailable: whoever put it out is gone, or does not answer.
        """
        gate = asyncio.Semaphore(_WINDOW)
        sizes = _sizes(parcel)
        pulls = [
            asyncio.ensure_future(self._chunk(address, size, gate, plane))
            for address, size in zip(parcel.chunks, sizes, strict=True)
        ]
        try:
            payload = b"".join(await asyncio.gather(*pulls))
        finally:
            for pull in pulls:
                pull.cancel()
        digest = await asyncio.to_thread(lambda: hashlib.sha256(payload).hexdigest())
        if digest != parcel.sha256:
            raise InvalidArtifact(
                f"a payload of {len(payload)} bytes has sha256 {digest[:12]}…, announced was "
                f"{parcel.sha256[:12]}…"
            )
        return payload

    async def _chunk(self, address: Any, size: int, gate: asyncio.Semaphore, plane: Plane) -> bytes:
        async with gate:
            await self._bucket.take(size)
            try:
                async with asyncio.timeout(self._pull_s):
                    chunk = await self._wire.get(address)
            except TimeoutError as error:
                raise Unavailable(f"a chunk did not come within {self._pull_s:.0f} s") from error
        if plane == "data":
            self.traffic.received += len(chunk)
        else:
            self.traffic.healed += len(chunk)
        return chunk


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of several parcels, by their owners' names."""

    payloads: dict[str, bytes]
    failed: dict[str, str]


async def pull_all(courier: Courier, parcels: dict[str, Parcel]) -> Pulled:
    """Pull from everyone at once; who cannot deliver is named, not raised."""

    async def attempt(parcel: Parcel) -> bytes | FoundryError:
        try:
            return await courier.pull(parcel)
        except (InvalidArtifact, Unavailable) as error:
            return error

    answers = await asyncio.gather(*(attempt(parcel) for parcel in parcels.values()))
    payloads: dict[str, bytes] = {}
    failed: dict[str, str] = {}
    for name, answer in zip(parcels, answers, strict=True):
        if isinstance(answer, FoundryError):
            failed[name] = answer.message
        else:
            payloads[name] = answer
    return Pulled(payloads, failed)


def _sizes(parcel: Parcel) -> list[int]:
    """Bytes of each chunk."""
    return [min(CHUNK_BYTES, parcel.size - start) for start in range(0, parcel.size, CHUNK_BYTES)]
