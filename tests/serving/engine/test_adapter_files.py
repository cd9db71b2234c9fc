"""Adapters are checked against the base before the engine sees them."""

import json
import struct
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from safetensors.numpy import save_file

from foundry.catalog.registry.domain import Manifest, adapter_uid
from foundry.errors import InvalidArtifact, Unavailable
from foundry.serving.engine.adapter_files import (
    RegistryAdapters,
    check_adapter,
    read_base_shapes,
    read_tensor_shapes,
)

BASE = {"model.layers.0.self_attn.q_proj.weight": (8, 16), "model.norm.weight": (16,)}
NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


def safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, path)


def adapter(folder: Path, shapes: dict[str, tuple[int, ...]] | None = None, **config: Any) -> Path:
    shapes = shapes or {f"{NAME}A.weight": (4, 16), f"{NAME}B.weight": (8, 4)}
    safetensors(folder / "adapter_model.safetensors", shapes)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4} | config))
    return folder


def test_a_fitting_adapter_passes(tmp_path: Path) -> None:
    check_adapter(adapter(tmp_path), BASE, 8)


@pytest.mark.parametrize("name", ["qweight", "weight_packed"])
def test_layers_of_a_quantised_base_are_known_by_their_packed_weights(
    tmp_path: Path, name: str
) -> None:
    base: dict[str, tuple[int, ...]] = {f"model.layers.0.self_attn.q_proj.{name}": (2, 8)}
    other: dict[str, tuple[int, ...]] = {f"model.norm.{name}": (2, 8)}
    check_adapter(adapter(tmp_path), base, 8)
    with pytest.raises(InvalidArtifact, match="does not fit rank 4"):
        check_adapter(adapter(tmp_path, {f"{NAME}A.weight": (3, 16)}), base, 8)
    with pytest.raises(InvalidArtifact, match="matches no layer"):
        check_adapter(adapter(tmp_path), other, 8)


@pytest.mark.parametrize(
    ("shapes", "config", "reason"),
    [
        (None, {"r": 16}, "rank 16"),
        (None, {"r": 0}, "rank 0"),
        (None, {"r": "4"}, "rank '4'"),
        (None, {"r": True}, "rank True"),
        (None, {"use_dora": True}, "use_dora"),
        (None, {"alpha_pattern": {"q_proj": 0.0001}}, "alpha_pattern"),
        (None, {"bias": "all"}, "bias"),
        (None, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({f"{NAME}A.weight": (4, 99)}, {}, "shape"),
        ({f"{NAME}B.weight": (4, 8)}, {}, "shape"),
        ({f"{NAME}C.weight": (4, 16)}, {}, "shape"),
        ({"base_model.model.model.layers.9.q_proj.lora_A.weight": (4, 16)}, {}, "no layer"),
        ({"model.norm.lora_A.weight": (4, 16)}, {}, "no layer"),
        ({"rubbish": (1,)}, {}, "no layer"),
    ],
)
def test_unfitting_adapters(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]] | None, config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidArtifact, match=reason):
        check_adapter(adapter(tmp_path, shapes, **config), BASE, 8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it has only 0 bytes: it is not a safetensors file"),
        (b"\xff" * 64, "its header claims 18446744073709551615 bytes, the file has 64"),
        (struct.pack("<Q", 2) + b"[]", "its header is not a JSON object"),
    ],
)
def test_not_safetensors(tmp_path: Path, data: bytes, reason: str) -> None:
    folder = adapter(tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(data)
    with pytest.raises(InvalidArtifact, match=f"^adapter_model.safetensors is damaged: {reason}"):
        check_adapter(folder, BASE, 8)


def test_bytes_that_no_tensor_describes(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    with (folder / "adapter_model.safetensors").open("ab") as file:
        file.write(b"hidden")
    with pytest.raises(InvalidArtifact, match=r"its header describes \d+ bytes, the file has \d+"):
        check_adapter(folder, BASE, 8)


def test_missing_config(tmp_path: Path) -> None:
    folder = adapter(tmp_path)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(InvalidArtifact, match=r"adapter_config\.json"):
        check_adapter(folder, BASE, 8)


def test_shapes_of_all_shards(tmp_path: Path) -> None:
    safetensors(tmp_path / "model-1.safetensors", {"a": (1, 2)})
    safetensors(tmp_path / "model-2.safetensors", {"b": (3,)})
    assert read_base_shapes(tmp_path) == {"a": (1, 2), "b": (3,)}
    assert read_tensor_shapes(tmp_path / "model-1.safetensors") == {"a": (1, 2)}


async def test_a_base_that_is_gone_for_a_moment_judges_no_adapter(tmp_path: Path) -> None:
    base_dir, folder = tmp_path / "base", tmp_path / "adapter"
    folder.mkdir()
    base, found = (Manifest(UUID(int=1), digest * 64, ()) for digest in "ba")

    class Weights:
        async def ensure(self, digest: str, files: object) -> Path:
            return adapter(folder)

    async def read_manifest(version_id: str) -> Manifest:
        return found

    weights: Any = Weights()
    adapters = RegistryAdapters(read_manifest, weights, base=base, base_dir=base_dir, max_rank=8)
    uid = adapter_uid(base.digest, found.digest)
    with pytest.raises(Unavailable, match="not on this node"):
        await adapters.fetch(uid, "v")
    base_dir.mkdir()
    safetensors(base_dir / "model.safetensors", BASE)
    assert await adapters.fetch(uid, "v") == folder
