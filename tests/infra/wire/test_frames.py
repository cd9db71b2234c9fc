"""The wire between gateway and engine."""

import pytest

from foundry import errors
from foundry.errors import EngineFailed, FoundryError
from foundry.infra.wire.frames import Fault, Frame, Kind, decode_frames, encode_frames


def test_golden_bytes() -> None:
    message = encode_frames([Frame(Kind.DATA, b"abc"), Frame(Kind.TAIL, b"")])
    assert message == b"D\x00\x00\x00\x03abcT\x00\x00\x00\x00"
    assert list(decode_frames(message)) == [Frame(Kind.DATA, b"abc"), Frame(Kind.TAIL, b"")]


@pytest.mark.parametrize("message", [b"D", b"X\x00\x00\x00\x00", b"D\x00\x00\x00\x03ab"])
def test_damaged(message: bytes) -> None:
    with pytest.raises(EngineFailed):
        list(decode_frames(message))


def test_every_error_survives_the_wire() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, FoundryError)
    ]
    assert len(classes) > 20
    for cls in classes:
        error = Fault.from_error(cls("why", param="x")).to_error()
        assert (type(error), error.message, error.details) == (cls, "why", {"param": "x"})


def test_an_unknown_code_is_the_bases() -> None:
    error = Fault("of_a_later_release", "why", {"param": "x"}).to_error()
    assert (type(error), error.message, error.details) == (FoundryError, "why", {"param": "x"})
