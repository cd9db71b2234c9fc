"""Shapes of registered models, on a directory store."""

import json
from pathlib import Path
from uuid import UUID

import pytest

from foundry.catalog.registry.domain import Manifest
from foundry.errors import Unavailable
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.objects import FileRef
from foundry.serving.endpoints.checking import ModelShapes
from foundry.serving.engine.shape import ModelShape
from tests.serving.recommendations.questions import LLAMA

ID = UUID(int=1)


class Shelf:
    """A store that counts what is read, and a version in it."""

    def __init__(self, root: Path) -> None:
        self.objects = DirectoryStore(root)
        self.reads = 0
        self.fault: Exception | None = None
        self.shapes = ModelShapes(self)  # type: ignore[arg-type]

    async def get_bytes(self, key: str) -> bytes:
        self.reads += 1
        if self.fault is not None:
            raise self.fault
        return await self.objects.get_bytes(key)

    async def put(self, text: bytes, *, name: str = "config.json") -> Manifest:
        await self.objects.put_bytes("config", text)
        files = (
            FileRef(name, "0" * 64, len(text), "config"),
            FileRef("model.safetensors", "1" * 64, 16_060_000_000, "weights"),
        )
        return Manifest(ID, "d" * 64, files)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


async def test_a_shape_is_read_once(shelf: Shelf) -> None:
    manifest = await shelf.put(json.dumps(LLAMA).encode())
    for _ in range(2):
        shape = await shelf.shapes.read_shape(manifest, 4096)
        assert shape.context_length == 4096
        assert shape.spec is not None
        assert (shape.spec.heads, shape.spec.kv_heads, shape.spec.layers) == (32, 8, 32)
        assert shape.spec.checkpoint_bytes == 16_060_000_000
    assert shelf.reads == 1


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b"\xff",
        b"[" * 5000,
        json.dumps({"architectures": ["LlamaForCausalLM"]}).encode(),
        # Read like Llama: nothing about it is certain.
        json.dumps(LLAMA | {"model_type": "brand-new"}).encode(),
        json.dumps(LLAMA | {"vision_config": {}}).encode(),
        b" " * (2**20 + 1),
    ],
    ids=["cut", "list", "bytes", "deep", "no-heads", "new", "vision", "large"],
)
async def test_what_is_not_understood_is_unknown(shelf: Shelf, text: bytes) -> None:
    manifest = await shelf.put(text)
    shape = await shelf.shapes.read_shape(manifest, 512)
    assert (shape.context_length, shape.spec) == (512, None)
    # Its name is certain all the same.
    named = ("LlamaForCausalLM",) if b"LlamaForCausalLM" in text else ()
    assert shape.architectures == named


async def test_a_version_without_a_configuration_is_not_looked_into(shelf: Shelf) -> None:
    named = await shelf.put(json.dumps(LLAMA).encode(), name="other.json")
    assert await shelf.shapes.read_shape(named, 512) == ModelShape(512)
    assert shelf.reads == 0


@pytest.mark.parametrize("fault", [Unavailable("the store is away"), OSError("reset")])
async def test_a_store_that_is_away_is_asked_again(shelf: Shelf, fault: Exception) -> None:
    manifest = await shelf.put(json.dumps(LLAMA).encode())
    shelf.fault = fault
    assert await shelf.shapes.read_shape(manifest, 512) == ModelShape(512)
    shelf.fault = None
    assert (await shelf.shapes.read_shape(manifest, 512)).spec is not None
