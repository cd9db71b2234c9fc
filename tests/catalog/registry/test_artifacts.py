"""Hostile and broken model files are refused by name; good ones are described."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from foundry.catalog.registry import safetensors
from foundry.catalog.registry.artifacts import inspect_files
from foundry.catalog.registry.safetensors import first_non_finite, read_header
from foundry.errors import InvalidArtifact
from tests.catalog.registry.files import adapter_dir, base_dir, write_raw, write_safetensors

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def test_a_base_describes_itself(tmp_path: Path) -> None:
    found = inspect_files(base_dir(tmp_path), "base")
    assert found.architecture == "LlamaForCausalLM"
    assert found.context_length == 512
    assert found.parameter_count == 16
    assert [file.path for file in found.files] == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_an_adapter_describes_itself(tmp_path: Path) -> None:
    found = inspect_files(adapter_dir(tmp_path, rank=2), "adapter")
    assert (found.lora_rank, found.lora_targets, found.parameter_count) == (2, ("q_proj",), 16)


def _config(folder: Path, **change: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def _weights(folder: Path, **tensors: np.ndarray) -> None:
    named = {f"{MODULE}.{name.replace('__', '.')}": value for name, value in tensors.items()}
    write_safetensors(folder / "adapter_model.safetensors", named)


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, dtype=np.float32)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle by suffix": (lambda f: (f / "weights.bin").write_bytes(b"x"), "is not allowed"),
    "code": (lambda f: (f / "modeling.py").write_text("print()"), "is not allowed"),
    "a stray file": (lambda f: (f / "notes.txt").write_text("x"), "is not allowed"),
    "broken json": (lambda f: (f / "adapter_config.json").write_text("{"), "not valid JSON"),
    "a list": (lambda f: (f / "adapter_config.json").write_text("[]"), "not a JSON object"),
    "auto_map": (lambda f: _config(f, auto_map={"AutoModel": "x.Y"}), "auto_map"),
    "not LoRA": (lambda f: _config(f, peft_type="IA3"), "peft_type LORA"),
    "wrong rank": (lambda f: _config(f, r=4), "does not fit rank 4"),
    "boolean rank": (lambda f: _config(f, r=True), "a rank r"),
    "no alpha": (lambda f: _config(f, lora_alpha=None), "a number lora_alpha"),
    "other targets": (lambda f: _config(f, target_modules=["v_proj"]), "none of the target"),
    "no targets": (lambda f: _config(f, target_modules=[1]), "list its target_modules"),
    "DoRA": (lambda f: _config(f, use_dora=True), "sets use_dora"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "safetensors is missing"),
    "no config": (lambda f: (f / "adapter_config.json").unlink(), "is missing"),
    "half a pair": (lambda f: _weights(f, lora_A__weight=_zeros(2, 4)), "lacks its counterpart"),
    "extra tensor": (
        lambda f: _weights(f, weight=_zeros(4, 4)),
        "is not part of a LoRA adapter",
    ),
    "NaN": (
        lambda f: _weights(f, lora_A__weight=_zeros(2, 4) * np.nan, lora_B__weight=_zeros(4, 2)),
        "NaN or infinity",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_adapters_are_refused(tmp_path: Path, name: str) -> None:
    spoil, says = HOSTILE[name]
    folder = adapter_dir(tmp_path / "adapter")
    spoil(folder)
    with pytest.raises(InvalidArtifact, match=says):
        inspect_files(folder, "adapter")


@pytest.mark.parametrize(
    ("missing", "says"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", "no .safetensors file"),
        ("tokenizer.json", "tokenizer"),
    ],
)
def test_an_incomplete_base_is_refused(tmp_path: Path, missing: str, says: str) -> None:
    folder = base_dir(tmp_path / "base")
    (folder / missing).unlink()
    with pytest.raises(InvalidArtifact, match=says):
        inspect_files(folder, "base")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_model_with_a_number_that_is_none_is_refused_by_name(
    tmp_path: Path, bad: float, dtype: str
) -> None:
    folder = base_dir(tmp_path / "base")
    good, spoilt = np.ones((64, 64), dtype), np.ones((64, 64), dtype)
    spoilt[63, 63] = bad
    write_safetensors(folder / "model.safetensors", {"good": good, "model.norm": spoilt})
    with pytest.raises(InvalidArtifact, match=r"model.norm holds NaN or infinity"):
        inspect_files(folder, "base")


@pytest.mark.parametrize(
    ("dtype", "finite", "not_finite"),
    [
        ("BF16", b"\x7f\x7f", b"\x80\x7f"),
        ("F8_E4M3", b"\x7e\xfe", b"\x00\xff"),
        ("F8_E5M2", b"\x7b\xfb", b"\x7c\x00"),
        ("F8_E8M0", b"\xfe\x00", b"\xff\x00"),
        ("I8", b"\xff\x7f", None),
    ],
)
def test_small_formats_have_their_own_infinities(
    tmp_path: Path, dtype: str, finite: bytes, not_finite: bytes | None
) -> None:
    path = tmp_path / "x.safetensors"
    shape = [len(finite) * 8 // {"BF16": 16}.get(dtype, 8)]
    for data, expected in ((finite, None), (not_finite, "x")):
        if data is not None:
            write_raw(path, json.dumps({"x": _entry(shape, 0, 2, dtype)}).encode(), data)
            assert first_non_finite(path, read_header(path)) == expected


def test_a_large_tensor_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "_PIECE_BYTES", 64)
    values = np.ones(1000, np.float32)
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"x": values})
    assert first_non_finite(path, read_header(path)) is None
    values[999] = np.nan
    write_safetensors(path, {"x": values})
    assert first_non_finite(path, read_header(path)) == "x"


def _entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HEADERS: dict[str, tuple[bytes, bytes, str]] = {
    "truncated data": (json.dumps({"a": _entry([2], 0, 8)}).encode(), b"1234", "the file has"),
    "surplus data": (json.dumps({"a": _entry([1], 0, 4)}).encode(), b"12345678", "describes"),
    "gap": (
        json.dumps({"a": _entry([1], 0, 4), "b": _entry([1], 8, 12)}).encode(),
        b"x" * 12,
        "does not start where",
    ),
    "overlap": (
        json.dumps({"a": _entry([2], 0, 8), "b": _entry([1], 4, 8)}).encode(),
        b"x" * 8,
        "does not start where",
    ),
    "shape": (json.dumps({"a": _entry([3], 0, 8)}).encode(), b"x" * 8, "need 12"),
    "negative": (json.dumps({"a": _entry([-1], 0, 4)}).encode(), b"xxxx", "no natural number"),
    "dtype": (json.dumps({"a": _entry([1], 0, 4, "X9")}).encode(), b"xxxx", "known dtype"),
    "duplicate key": (b'{"a": {}, "a": {}}', b"", "not valid JSON"),
    "not json": (b"garbage", b"", "not valid JSON"),
    "a list": (b"[]", b"", "not a JSON object"),
    "no offsets": (b'{"a": {"dtype": "F32", "shape": [1]}}', b"", "known dtype"),
    "list entry": (b'{"a": [1]}', b"", "known dtype"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    header, data, says = HEADERS[name]
    path = tmp_path / "x.safetensors"
    write_raw(path, header, data)
    with pytest.raises(InvalidArtifact, match=says):
        read_header(path)


@pytest.mark.parametrize("raw", [b"", b"\x00" * 7, struct.pack("<Q", 2**63), b"\xff" * 64])
def test_what_is_no_safetensors_is_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(InvalidArtifact, match="damaged"):
        read_header(path)


def test_every_truncation_of_a_good_file_is_refused(tmp_path: Path) -> None:
    source = base_dir(tmp_path / "b") / "model.safetensors"
    raw = source.read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        with pytest.raises(InvalidArtifact):
            read_header(path)
