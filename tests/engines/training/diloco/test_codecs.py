"""What readers see of an outer gradient, value by value."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from foundry.engines.training.diloco import config as cfg
from foundry.engines.training.diloco.codecs import (
    Bf16Codec,
    Codec,
    E3m0Codec,
    Fp32Codec,
    Int8Codec,
    Values,
    from_bf16,
    open_codec,
    to_bf16,
)
from foundry.engines.training.diloco.sparse import TopKCodec
from foundry.errors import InvalidArtifact

CODECS: dict[str, Codec] = {
    "fp32": Fp32Codec(),
    "bf16": Bf16Codec(),
    "int8": Int8Codec(),
    "e3m0": E3m0Codec(),
    "topk": TopKCodec(1 / 64),
    "topk_3_percent": TopKCodec(0.03),
}
SIZES = (0, 1, 2, 255, 256, 257, 4095, 4096, 4097, 100_000)
LIMIT = 2.0**127
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())


def vectors(most: int = 600, limit: float = LIMIT) -> st.SearchStrategy[Values]:
    return arrays(
        np.float32,
        st.integers(0, most),
        elements=st.floats(-limit, limit, width=32, allow_subnormal=True),
    )


def normal(size: int, seed: int = 0) -> Values:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def seen(codec: Codec, values: Values) -> Values:
    return codec.decode(codec.encode(values), values.size)


def of_bits(bits: list[int]) -> Values:
    return np.array(bits, np.uint32).view(np.float32)


@every_codec
@pytest.mark.parametrize("size", SIZES)
def test_every_payload_of_a_size_is_as_long_as_announced(codec: Codec, size: int) -> None:
    for values in (normal(size), np.zeros(size, np.float32)):
        payload = codec.encode(values)
        assert len(payload) == codec.payload_bytes(size)
        decoded = codec.decode(payload, size)
        assert decoded.dtype == np.float32 and decoded.shape == (size,)
        assert decoded.flags.writeable
    assert not seen(codec, np.zeros(size, np.float32)).any()


def test_bits_per_value_are_those_that_the_configuration_promises() -> None:
    size = 1 << 20
    bits = {name: 8 * codec.payload_bytes(size) / size for name, codec in CODECS.items()}
    assert bits["fp32"] == 32
    assert bits["bf16"] == 16
    assert bits["int8"] == 8.125
    assert bits["e3m0"] == 4.0625
    # 64 of 4,096: 2 bits, 6 low bits, and 2 high bits a place; 32 bits of levels a chunk.
    assert bits["topk"] == pytest.approx(64 * (2 + 6 + 2) / 4096 + 32 / 4096, abs=1e-4)


@pytest.mark.parametrize(
    ("config", "kind", "feedback"),
    [
        (cfg.Fp32(), Fp32Codec, 0.0),
        (cfg.Bf16(), Bf16Codec, 0.0),
        (cfg.Int8(), Int8Codec, 1.0),
        (cfg.Int8(error_feedback=False), Int8Codec, 0.0),
        (cfg.E3m0(), E3m0Codec, 1.0),
        (cfg.E3m0(error_feedback=False), E3m0Codec, 0.0),
        (cfg.TopK(decay=0.9), TopKCodec, 0.9),
        (cfg.TopK(decay=0.9, error_feedback=False), TopKCodec, 0.0),
    ],
)
def test_the_configuration_opens_its_codec(
    config: cfg.Codec, kind: type[Codec], feedback: float
) -> None:
    codec = open_codec(config)
    assert type(codec) is kind
    assert codec.feedback == feedback


# Bytes written by hand: a payload made on any machine reads the same on another.
FIXED = [
    (Fp32Codec(), [1.0, -2.0], "0000803f 000000c0"),
    (Bf16Codec(), [1.0, -2.0], "803f 00c0"),
    (Int8Codec(), [127.0, -2.0, 0.0], "0000803f 7f fe 00"),
    # s = 2; 1 = s/2 is level 6, -2 is level 7, 0.25 = s/8 is level 4: low nibble first.
    (E3m0Codec(), [1.0, -2.0, 0.25], "0040 f6 04"),
    # Of 4 values at a density of 1/4, the last: level low 4, high unused; sign bit, high bit;
    # place 3 = 11b in low bits (least first), upper 1.
    (TopKCodec(1 / 4), [1.0, -2.0, 0.25, -4.0], "8040 0000 80 c0 80"),
]


@pytest.mark.parametrize(("codec", "values", "expected"), FIXED)
def test_the_bytes_are_fixed(codec: Codec, values: list[float], expected: str) -> None:
    assert codec.encode(np.array(values, np.float32)).hex() == expected.replace(" ", "")


@settings(deadline=None)
@given(vectors(limit=3.4028234663852886e38))
def test_fp32_is_exact(values: Values) -> None:
    assert seen(CODECS["fp32"], values).tobytes() == values.tobytes()


TIES = of_bits(
    [
        *(0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF808000, 0x00008000, 0x00018000),
        *(0x00000001, 0x80000001, 0x807FFFFF, 0x00000000, 0x80000000),
        *(0x7F7F7FFF, 0x7F7F8000, 0x7F800000, 0xFF800000),
    ]
)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=64))
@example(TIES.view(np.uint32).tolist())
def test_bf16_rounds_as_torch_does(bits: list[int]) -> None:
    values = of_bits(bits)
    ours = to_bf16(values)
    theirs = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.int16).numpy()
    # The payload of a NaN is not specified; that it stays one is.
    number = ~np.isnan(values)
    assert (ours[number] == theirs.view(np.uint16)[number]).all()
    assert np.isnan(from_bf16(ours[~number])).all()


def test_bf16_ties_go_to_the_even_neighbour() -> None:
    got = to_bf16(TIES)
    assert [hex(code) for code in got[:7]] == [
        "0x3f80",
        "0x3f82",
        "0x3f81",
        "0x3f80",
        "0xbf80",
        "0x0",
        "0x2",
    ]
    assert got[-4:].tolist() == [0x7F7F, 0x7F80, 0x7F80, 0xFF80]


@settings(deadline=None)
@given(vectors())
# Units of the least subnormal: 178/127 is rounded to one, so the ratio is 178.
@example(of_bits([178, 1, 0x80000001]))
def test_int8_is_off_by_half_a_step_at_most(values: Values) -> None:
    decoded = seen(CODECS["int8"], values)
    for start in range(0, values.size, 256):
        block, got = values[start : start + 256], decoded[start : start + 256]
        exact = np.abs(block).max().astype(np.float64) / 127
        # Half a step, and what float32 loses in the scale, the ratio and the product.
        slack = 127 * exact * 2.0**-22 + 256 * 2.0**-149
        error = np.abs(block.astype(np.float64) - got)
        assert (error <= exact / 2 + slack).all()
        assert not ((np.sign(got) * np.sign(block)) < 0).any()


def test_int8_keeps_the_multiples_of_its_step() -> None:
    values = np.arange(-127, 128, dtype=np.float32) * np.float32(0.25)
    assert (seen(CODECS["int8"], values) == values).all()
    halves = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    assert seen(CODECS["int8"], halves).tolist() == [127, 0, 2, 2, 0, -2]


def test_blocks_have_their_own_scale() -> None:
    values = np.concatenate([np.full(256, 1e-6), np.full(256, 1e6), [3.0]]).astype(np.float32)
    for name in ("int8", "e3m0"):
        assert seen(CODECS[name], values) == pytest.approx(values, rel=2**-7)


@pytest.mark.parametrize("scale", [1.0, 2.0**-100, 1.5 * 2.0**60])
@pytest.mark.parametrize("sign", [1, -1])
def test_e3m0_has_zero_and_seven_levels_of_each_sign(scale: float, sign: int) -> None:
    levels = np.float32(sign * scale) * np.array(
        [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 0], np.float32
    )
    assert (seen(CODECS["e3m0"], levels) == levels).all()


def test_e3m0_goes_to_the_nearest_level() -> None:
    levels = np.array([0, *(2.0**-k for k in range(6, -1, -1))], np.float32)
    for low, high in pairwise(levels):
        middle = np.float32((low + high) / 2)
        around = np.array([1, np.nextafter(middle, np.float32(0)), middle], np.float32)
        assert seen(CODECS["e3m0"], around).tolist() == [1, low, high]
        assert seen(CODECS["e3m0"], -around).tolist() == [-1, -low, -high]


@settings(deadline=None)
@given(vectors())
@example(of_bits([0x3F800001, 0x3F000000]))
@example(of_bits([1, 0x80000001, 3]))
def test_e3m0_is_bounded(values: Values) -> None:
    decoded = seen(CODECS["e3m0"], values).astype(np.float64)
    for start in range(0, values.size, 256):
        block, got = values[start : start + 256].astype(np.float64), decoded[start : start + 256]
        most = np.abs(block).max()
        scale = most * (1 + 2.0**-7) + 2.0**-133  # bfloat16 upwards; the least one
        assert (np.abs(got) <= scale).all()
        error = np.abs(block - got)
        # A quarter of the scale between the two greatest levels; a third of the value above 2^-6.
        assert (error <= scale / 4 + 2.0**-149).all()
        in_range = np.abs(block) >= scale / 64
        assert (error[in_range] <= np.abs(block[in_range]) * (1 / 3 + 1e-6) + 2.0**-133).all()
        assert (error[~in_range] <= scale / 128 + 2.0**-149).all()
        assert not ((np.sign(got) * np.sign(block)) < 0).any()


def test_e3m0_never_shrinks_the_greatest_value() -> None:
    values = normal(256 * 50)
    peaks = np.abs(values).reshape(-1, 256).max(axis=1)
    got = np.abs(seen(CODECS["e3m0"], values)).reshape(-1, 256).max(axis=1)
    assert (got >= peaks).all()
    assert (got <= peaks * (1 + 2.0**-7)).all()


@every_codec
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, of_bits([0x7FFFFFFF])[0]])
@pytest.mark.parametrize("place", [0, 299])
def test_what_is_not_finite_is_refused(codec: Codec, poison: float, place: int) -> None:
    values = normal(300)
    values[place] = poison
    with pytest.raises(InvalidArtifact, match="diverged"):
        codec.encode(values)


@every_codec
def test_the_greatest_values_survive_or_are_refused(codec: Codec) -> None:
    values = normal(300)
    values[7] = LIMIT
    assert seen(codec, values)[7] == pytest.approx(LIMIT, rel=2**-7)
    values[7] = 3.4028234663852886e38
    payload = codec.encode(values)
    try:
        assert codec.decode(payload, 300)[7] == pytest.approx(3.4e38, rel=2**-6)
    except InvalidArtifact:
        assert not isinstance(codec, Fp32Codec)


@every_codec
@pytest.mark.parametrize("size", [0, 1, 257, 4097])
def test_a_payload_of_another_length_is_refused(codec: Codec, size: int) -> None:
    payload = codec.encode(normal(size))
    for damaged in (payload[:-1], payload + b"\0", b""):
        if len(damaged) != len(payload):
            with pytest.raises(InvalidArtifact, match=f"{len(payload)} were expected"):
                codec.decode(damaged, size)


@every_codec
@pytest.mark.parametrize("size", [1, 300, 5000])
def test_damage_is_noticed_or_harmless(codec: Codec, size: int) -> None:
    """Any flipped bit: a typed error, or finite values of the right size."""
    payload = codec.encode(normal(size))
    random = np.random.default_rng(size)
    for bit in random.integers(0, 8 * len(payload), 300):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << (bit % 8)
        try:
            decoded = codec.decode(bytes(damaged), size)
        except InvalidArtifact:
            continue
        assert decoded.shape == (size,) and np.isfinite(decoded).all()


@every_codec
@settings(deadline=None)
@given(st.data(), st.sampled_from([0, 1, 3, 300]))
def test_any_bytes_are_read_or_refused(codec: Codec, data: st.DataObject, size: int) -> None:
    length = codec.payload_bytes(size)
    payload = data.draw(st.binary(min_size=length, max_size=length))
    try:
        decoded = codec.decode(payload, size)
    except InvalidArtifact:
        return
    assert decoded.shape == (size,) and np.isfinite(decoded).all()
