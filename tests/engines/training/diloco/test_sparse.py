"""Top-k with two bits a value, against a definition written out in Python."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from foundry.engines.training.diloco.sparse import CHUNK, TopKCodec
from foundry.errors import InvalidArtifact

Values = NDArray[np.float32]


def distinct(size: int, seed: int = 0) -> Values:
    """No two magnitudes are equal, so which are the largest is beyond doubt."""
    random = np.random.default_rng(seed)
    signs = random.choice([-1.0, 1.0], size)
    values: Values = (signs * random.permutation(np.arange(1, size + 1)) / 7).astype(np.float32)
    return values


def truncated(value: float) -> float:
    return float((np.array([value], np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)[0])


def reference(values: Values, density: float) -> list[float]:
    out = [0.0] * values.size
    for start in range(0, values.size, CHUNK):
        chunk = values[start : start + CHUNK].tolist()
        keep = max(1, round(len(chunk) * density))
        kept = sorted(range(len(chunk)), key=lambda i: -abs(chunk[i]))[:keep]
        mean = float(np.float32(math.fsum(abs(chunk[i]) for i in kept) / keep))
        for side in (True, False):
            group = [i for i in kept if (abs(chunk[i]) > mean) is side]
            if group:
                level = truncated(math.fsum(abs(chunk[i]) for i in group) / len(group))
                for i in group:
                    out[start + i] = math.copysign(level, chunk[i])
    return out


@pytest.mark.parametrize("density", [1 / 4096, 1 / 64, 0.02, 0.03, 1 / 4])
@pytest.mark.parametrize("size", [1, 5, 255, 4095, 4096, 4097, 12_300])
def test_the_largest_of_each_chunk_survive_at_two_levels(size: int, density: float) -> None:
    values = distinct(size, seed=size)
    codec = TopKCodec(density)
    assert codec.decode(codec.encode(values), size).tolist() == reference(values, density)


def test_the_error_is_less_than_what_is_sent() -> None:
    """Sending is a contraction: |x - Q(x)|² < |x|², what error feedback needs to converge."""
    values = np.random.default_rng(3).standard_normal(3 * CHUNK).astype(np.float32)
    for density in (1 / 4096, 1 / 64, 1 / 4):
        codec = TopKCodec(density)
        error = values - codec.decode(codec.encode(values), values.size)
        assert np.square(error).sum() < np.square(values).sum() * (1 - density)


def test_equal_magnitudes_share_one_level() -> None:
    values = np.where(np.arange(CHUNK) % 2, 1.5, -1.5).astype(np.float32)
    codec = TopKCodec(1 / 64)
    decoded = codec.decode(codec.encode(values), CHUNK)
    sent = decoded != 0
    assert sent.sum() == 64
    assert (decoded[sent] == values[sent]).all()


def test_a_chunk_of_zeros_stays_zero_beside_others() -> None:
    values = np.concatenate([np.zeros(CHUNK), np.full(CHUNK, 2.0), np.zeros(9)]).astype(np.float32)
    codec = TopKCodec(1 / 64)
    decoded = codec.decode(codec.encode(values), values.size)
    assert np.count_nonzero(decoded[CHUNK : 2 * CHUNK]) == 64
    assert np.count_nonzero(decoded) == 64


@settings(deadline=None)
@given(st.integers(1, 5000), st.sampled_from([1 / 4096, 1 / 64, 0.1, 1 / 4]), st.integers(0, 99))
def test_places_of_any_size_are_read_back(size: int, density: float, seed: int) -> None:
    values = distinct(size, seed)
    codec = TopKCodec(density)
    payload = codec.encode(values)
    assert len(payload) == codec.payload_bytes(size)
    decoded = codec.decode(payload, size)
    for start in range(0, size, CHUNK):
        chunk, got = values[start : start + CHUNK], decoded[start : start + CHUNK]
        keep = max(1, round(chunk.size * density))
        expected = np.sort(np.argsort(-np.abs(chunk))[:keep])
        assert np.flatnonzero(got).tolist() == expected.tolist()
        assert (np.sign(got[expected]) == np.sign(chunk[expected])).all()


def test_places_that_do_not_ascend_or_leave_the_vector_are_refused() -> None:
    # Two of 8 values: levels 4 bytes, codes 1, low bits 1 (two each), upper 4 bits in 1.
    codec = TopKCodec(1 / 4)
    payload = codec.encode(np.array([0, 9, 0, 0, 0, 0, 8, 0], np.float32))
    assert codec.decode(payload, 8).nonzero()[0].tolist() == [1, 6]

    def with_places(low: int, upper: int) -> bytes:
        return payload[:5] + bytes([low, upper])

    # Low bits are written least first: 1 is 10, 2 is 01; the upper parts 0 and 1 are 1 0 1 0.
    assert with_places(0b10_01_0000, 0b1010_0000) == payload
    with pytest.raises(InvalidArtifact, match="not ascending"):
        codec.decode(with_places(0b10_10_0000, 0b1100_0000), 8)
    with pytest.raises(InvalidArtifact, match="not ascending"):
        codec.decode(with_places(0b10_10_0000, 0b1001_0000), 8)
    with pytest.raises(InvalidArtifact, match="damaged"):
        codec.decode(with_places(0b10_01_0000, 0b1110_0000), 8)
