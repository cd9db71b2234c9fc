"""The largest values of each chunk in two bits, their places as a monotone sequence.

SparseLoCo (arXiv:2508.15706) sends 12 bits of index and 2 bits of value for 64 of every 4,096
values. Here the places of the whole vector, ascending, are one Elias-Fano sequence (low bits
verbatim, high bits as a unary code): 8 bits an index at that density, close to the entropy.
"""

import numpy as np
from numpy.typing import NDArray

from foundry.engines.training.diloco.payloads import require_finite, require_length
from foundry.errors import InvalidArtifact

Values = NDArray[np.float32]
CHUNK = 4096


class TopKCodec:
    """Sign, and which of two magnitudes; each chunk has its own two.

    A chunk's kept magnitudes are split at their mean; the levels are the means of both halves,
    which minimise the squared error of a split.
    """

    def __init__(self, density: float, feedback: float = 1.0) -> None:
        self._density = density
        self.feedback = feedback

    def encode(self, values: Values) -> bytes:
        places = self._places(require_finite(values))
        kept = values[places]
        chunks = places // CHUNK
        magnitudes = np.abs(kept)
        high = magnitudes > _mean_by(magnitudes, chunks, self._chunks(values.size))[chunks]
        levels = np.stack(
            [
                _mean_by(magnitudes[side], chunks[side], self._chunks(values.size))
                for side in (~high, high)
            ],
            axis=1,
        )
        codes = np.stack([np.signbit(kept), high], axis=1).astype(np.uint8)
        low, upper = _elias_fano(places, self._low_bits(), values.size)
        return b"".join(
            (
                (levels.view(np.uint32) >> 16).astype("<u2").tobytes(),
                np.packbits(codes).tobytes(),
                low.tobytes(),
                upper.tobytes(),
            )
        )

    def decode(self, payload: bytes, size: int) -> Values:
        require_length(payload, self.payload_bytes(size))
        count, chunks = self._count(size), self._chunks(size)
        raw = np.frombuffer(payload, np.uint8)
        cuts = np.cumsum([4 * chunks, -(-2 * count // 8), -(-count * self._low_bits() // 8)])
        heads, codes, low, upper = np.split(raw, cuts)
        levels = (heads.view("<u2").astype(np.uint32) << 16).view(np.float32)
        levels = require_finite(levels).reshape(-1, 2)
        negative, high = np.unpackbits(codes, count=2 * count).reshape(-1, 2).T
        places = _elias_fano_read(low, upper, self._low_bits(), count)
        if count and (places[-1] >= size or (np.diff(places) <= 0).any()):
            raise InvalidArtifact("the places of an outer gradient are not ascending")
        values = np.zeros(size, np.float32)
        values[places] = levels[places // CHUNK, high] * np.where(negative, -1, 1).astype(
            np.float32
        )
        return values

    def payload_bytes(self, size: int) -> int:
        count = self._count(size)
        upper = count + (max(size - 1, 0) >> self._low_bits()) + 1
        return (
            4 * self._chunks(size)
            + -(-2 * count // 8)
            + -(-count * self._low_bits() // 8)
            + -(-upper // 8)
        )

    def _places(self, values: Values) -> NDArray[np.int64]:
        """Where the largest of each chunk are, ascending."""
        whole = values.size // CHUNK * CHUNK
        parts = [_largest(np.abs(values[:whole].reshape(-1, CHUNK)), self._kept(CHUNK))]
        if whole < values.size:
            rest = np.abs(values[whole:]).reshape(1, -1)
            parts.append(_largest(rest, self._kept(rest.size)) + whole)
        return np.concatenate(parts)

    def _kept(self, size: int) -> int:
        return max(1, round(size * self._density))

    def _count(self, size: int) -> int:
        whole, rest = divmod(size, CHUNK)
        return whole * self._kept(CHUNK) + (self._kept(rest) if rest else 0)

    def _chunks(self, size: int) -> int:
        return -(-size // CHUNK)

    def _low_bits(self) -> int:
        return max(0, int(np.floor(np.log2(1 / self._density))))


def _largest(magnitudes: Values, count: int) -> NDArray[np.int64]:
    """Flat places of the `count` largest of each row."""
    rows, size = magnitudes.shape
    order = np.argpartition(-magnitudes, count - 1, axis=1)[:, :count]
    places: NDArray[np.int64] = np.sort(order, axis=1) + np.arange(rows)[:, None] * size
    return places.reshape(-1)


def _mean_by(values: Values, groups: NDArray[np.int64], count: int) -> Values:
    """Mean of each group; 0 of an empty one."""
    sums = np.bincount(groups, values, minlength=count)
    sizes = np.bincount(groups, minlength=count)
    means: Values = (sums / np.maximum(sizes, 1)).astype(np.float32)
    return means


def _elias_fano(
    places: NDArray[np.int64], low_bits: int, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The low bits of each place, and a bit string with a one at place>>low_bits + its rank."""
    bits = (places[:, None] >> np.arange(low_bits)) & 1
    upper = np.zeros(places.size + (max(size - 1, 0) >> low_bits) + 1, np.uint8)
    upper[(places >> low_bits) + np.arange(places.size)] = 1
    return np.packbits(bits.astype(np.uint8)), np.packbits(upper)


def _elias_fano_read(
    low: NDArray[np.uint8], upper: NDArray[np.uint8], low_bits: int, count: int
) -> NDArray[np.int64]:
    ones = np.flatnonzero(np.unpackbits(upper))
    if ones.size != count:
        raise InvalidArtifact("the places of an outer gradient are damaged")
    bits = np.unpackbits(low, count=count * low_bits).reshape(count, low_bits).astype(np.int64)
    values: NDArray[np.int64] = ((ones - np.arange(count)) << low_bits) + (
        bits << np.arange(low_bits)
    ).sum(axis=1)
    return values
