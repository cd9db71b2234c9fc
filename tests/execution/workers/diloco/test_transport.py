"""Chunks, digests, pace and counters."""

import asyncio
from typing import Any

import pytest

from foundry.errors import InvalidArtifact, Unavailable
from foundry.execution.workers.diloco.transport import CHUNK_BYTES, Courier, TokenBucket, pull_all


class _Wire:
    """Chunks in a list; `broken` maps an address to what is delivered instead."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.broken: dict[int, bytes | None] = {}

    def put(self, chunk: bytes) -> Any:
        self.chunks.append(chunk)
        return len(self.chunks) - 1

    async def get(self, address: Any) -> bytes:
        found: bytes | None = self.broken.get(address, self.chunks[address])
        if found is None:
            await asyncio.Event().wait()
            raise AssertionError
        return found


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def _courier(wire: _Wire, bucket: TokenBucket | None = None) -> Courier:
    return Courier(wire, bucket or TokenBucket(None), pull_s=0.05)


async def test_a_payload_travels_in_chunks_and_is_counted_by_its_plane() -> None:
    wire = _Wire()
    payload = bytes(range(256)) * 2048 + b"rest"
    parcel = _courier(wire).put(payload)
    assert [len(chunk) for chunk in wire.chunks] == [CHUNK_BYTES, CHUNK_BYTES, 4]
    receiver = _courier(wire)
    assert await receiver.pull(parcel) == payload
    assert await receiver.pull(parcel, "heal") == payload
    assert (receiver.traffic.received, receiver.traffic.healed) == (len(payload), len(payload))


async def test_an_empty_payload_has_no_chunks() -> None:
    courier = _courier(_Wire())
    parcel = courier.put(b"")
    assert parcel.chunks == ()
    assert await courier.pull(parcel) == b""


async def test_a_damaged_payload_and_a_silent_owner_are_named() -> None:
    wire = _Wire()
    courier = _courier(wire)
    parcels = {name: courier.put(name.encode()) for name in ("good", "bad", "gone")}
    wire.broken = {1: b"bat", 2: None}
    with pytest.raises(InvalidArtifact, match="has sha256"):
        await courier.pull(parcels["bad"])
    with pytest.raises(Unavailable, match="did not come within"):
        await courier.pull(parcels["gone"])
    pulled = await pull_all(courier, parcels)
    assert pulled.payloads == {"good": b"good"}
    assert set(pulled.failed) == {"bad", "gone"}


async def test_a_bucket_lets_through_its_rate_and_no_more() -> None:
    clock = _Clock()
    wire = _Wire()
    rate = 1_250_000
    courier = _courier(wire, TokenBucket(rate, clock, clock.sleep))
    parcel = courier.put(bytes(8 * CHUNK_BYTES))
    await courier.pull(parcel)
    # The first chunk goes at once, the others when the ones before them have been paid for.
    assert clock.now - 100 >= 7 * CHUNK_BYTES / rate - 1e-6
