"""How outer gradients are written down.

Everything is NumPy on the host: a payload made on one vendor's accelerator reads the same on
another's, and float32 arithmetic in a fixed order gives every worker the same bits.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foundry.engines.training.diloco import config as cfg
from foundry.engines.training.diloco.payloads import require_finite, require_length
from foundry.engines.training.diloco.sparse import TopKCodec

Values = NDArray[np.float32]
BLOCK = 256


class Codec(Protocol):
    """One way to write a vector of float32."""

    @property
    def feedback(self) -> float:
        """Share of the error that is added to the next vector; 0: it is forgotten."""

    def encode(self, values: Values) -> bytes:
        """Magnitudes up to 2^127 survive decoding, greater ones may not.

        Raises:
            InvalidArtifact: a value is not finite.
        """

    def decode(self, payload: bytes, size: int) -> Values:
        """The vector that every reader sees.

        Raises:
            InvalidArtifact: the payload is not one of `size` finite values.
        """

    def payload_bytes(self, size: int) -> int:
        """Length of every payload of `size` values."""


def open_codec(config: cfg.Codec) -> Codec:
    match config:
        case cfg.Fp32():
            return Fp32Codec()
        case cfg.Bf16():
            return Bf16Codec()
        case cfg.Int8():
            return Int8Codec(float(config.error_feedback))
        case cfg.E3m0():
            return E3m0Codec(float(config.error_feedback))
        case cfg.TopK():
            return TopKCodec(config.density, config.decay if config.error_feedback else 0.0)


class Fp32Codec:
    feedback = 0.0

    def encode(self, values: Values) -> bytes:
        return require_finite(values).astype("<f4", copy=False).tobytes()

    def decode(self, payload: bytes, size: int) -> Values:
        require_length(payload, self.payload_bytes(size))
        return require_finite(np.frombuffer(payload, "<f4").astype(np.float32))

    def payload_bytes(self, size: int) -> int:
        return 4 * size


class Bf16Codec:
    feedback = 0.0

    def encode(self, values: Values) -> bytes:
        return to_bf16(require_finite(values)).astype("<u2", copy=False).tobytes()

    def decode(self, payload: bytes, size: int) -> Values:
        require_length(payload, self.payload_bytes(size))
        return require_finite(from_bf16(np.frombuffer(payload, "<u2")))

    def payload_bytes(self, size: int) -> int:
        return 2 * size


class Int8Codec:
    """q = round(x / s), s = max|x| / 127 of each block."""

    def __init__(self, feedback: float = 1.0) -> None:
        self.feedback = feedback

    def encode(self, values: Values) -> bytes:
        blocks = _blocks(require_finite(values))
        scales = (np.abs(blocks).max(axis=1) / np.float32(127)).astype(np.float32)
        ratios = np.rint(blocks / _divisors(scales)[:, None])
        # A subnormal scale is too coarse: the ratio may be far above 127.
        codes = np.clip(ratios, -127, 127).astype(np.int8)
        return b"".join(
            (scales.astype("<f4").tobytes(), codes.reshape(-1)[: values.size].tobytes())
        )

    def decode(self, payload: bytes, size: int) -> Values:
        require_length(payload, self.payload_bytes(size))
        count = _block_count(size)
        scales = np.frombuffer(payload, "<f4", count)
        codes = np.frombuffer(payload, np.int8, size, 4 * count)
        return _scaled(codes.astype(np.float32), scales)

    def payload_bytes(self, size: int) -> int:
        return 4 * _block_count(size) + size


class E3m0Codec:
    """Sign and a 3-bit exponent: 0 or ±s·2^-k for k = 0..6, s at least max|x| of the block.

    s is a bfloat16 rounded upwards, so no value exceeds it. Values go to the nearest level.
    """

    def __init__(self, feedback: float = 1.0) -> None:
        self.feedback = feedback

    def encode(self, values: Values) -> bytes:
        blocks = _blocks(require_finite(values))
        scales = _bf16_up(np.abs(blocks).max(axis=1))
        ratios = np.abs(blocks) / _divisors(from_bf16(scales))[:, None]
        # Level 0 is zero, level n is 2^(n-7); the thresholds are the midpoints.
        levels = np.searchsorted(_MIDPOINTS, ratios.reshape(-1), side="right").astype(np.uint8)
        codes = levels | (np.signbit(blocks).reshape(-1).astype(np.uint8) << 3)
        packed = codes[0::2] | (codes[1::2] << 4)
        count = -(-values.size // 2)
        return b"".join((scales.astype("<u2").tobytes(), packed[:count].tobytes()))

    def decode(self, payload: bytes, size: int) -> Values:
        require_length(payload, self.payload_bytes(size))
        count = _block_count(size)
        scales = from_bf16(np.frombuffer(payload, "<u2", count))
        packed = np.frombuffer(payload, np.uint8, -(-size // 2), 2 * count)
        codes = np.empty(2 * packed.size, np.uint8)
        codes[0::2], codes[1::2] = packed & 15, packed >> 4
        return _scaled(_LEVELS[codes[:size]], scales)

    def payload_bytes(self, size: int) -> int:
        return 2 * _block_count(size) + -(-size // 2)


_MAGNITUDES = np.array([0.0, *(2.0 ** (n - 7) for n in range(1, 8))], np.float32)
_MIDPOINTS = (_MAGNITUDES[1:] + _MAGNITUDES[:-1]) / np.float32(2)
_LEVELS = np.concatenate([_MAGNITUDES, -_MAGNITUDES])


def to_bf16(values: Values) -> NDArray[np.uint16]:
    """Round to nearest even; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = ((bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bf16(codes: NDArray[np.uint16]) -> Values:
    return (codes.astype(np.uint32) << 16).view(np.float32)


def _bf16_up(magnitudes: Values) -> NDArray[np.uint16]:
    """The least bfloat16 that is not below a magnitude."""
    return ((magnitudes.view(np.uint32) + np.uint32(0xFFFF)) >> 16).astype(np.uint16)


def _divisors(scales: Values) -> Values:
    """Where a block is all zero, dividing by one leaves it so."""
    safe: Values = np.where(scales > 0, scales, np.float32(1)).astype(np.float32)
    return safe


def _block_count(size: int) -> int:
    return -(-size // BLOCK)


def _blocks(values: Values) -> Values:
    """Shape (blocks, BLOCK), the last one filled up with zeros."""
    missing = -values.size % BLOCK
    filled = np.concatenate([values, np.zeros(missing, np.float32)]) if missing else values
    return filled.reshape(-1, BLOCK)


def _scaled(values: Values, scales: Values) -> Values:
    """Each block times its scale."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled: Values = (_blocks(values) * scales[:, None]).reshape(-1)[: values.size]
    return require_finite(scaled)
