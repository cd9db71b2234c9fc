"""Adapters on disk: fetched by digest and checked against the base before the engine sees them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from foundry.catalog.registry.adapters import read_rank
from foundry.catalog.registry.domain import Manifest, adapter_uid
from foundry.catalog.registry.safetensors import read_header
from foundry.engines.adapter_config import find_unserved_options
from foundry.engines.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, WEIGHTS_SUFFIX
from foundry.errors import InvalidArtifact, Unavailable
from foundry.infra.weights import WeightCache

_PREFIX = "base_model.model."
# What GPTQ and AWQ, and compressed-tensors, call the weights of a layer.
_PACKED = ("qweight", "weight_packed")

Shape = tuple[int, ...]


class RegistryAdapters:
    """Adapters of one base.

    Args:
        base: manifest of the base version.
        base_dir: its local files.
        max_rank: largest LoRA rank that the engine was started for.
    """

    def __init__(
        self,
        manifests: Callable[[str], Awaitable[Manifest]],
        weights: WeightCache,
        *,
        base: Manifest,
        base_dir: Path,
        max_rank: int,
    ) -> None:
        self._manifests = manifests
        self._weights = weights
        self._base = base
        self._base_dir = base_dir
        self._max_rank = max_rank
        self._base_shapes: dict[str, Shape] | None = None

    async def fetch(self, uid: str, version_id: str) -> Path:
        manifest = await self._manifests(version_id)
        if adapter_uid(self._base.digest, manifest.digest) != uid:
            raise InvalidArtifact("the adapter was trained for another base or version")
        path = await self._weights.ensure(manifest.digest, manifest.files)
        await asyncio.to_thread(self._check_files, path)
        return path

    def _check_files(self, path: Path) -> None:
        if self._base_shapes is None:
            shapes = read_base_shapes(self._base_dir)
            if not shapes:
                # Nothing to remember: judged by it, every adapter would be refused for good.
                raise Unavailable("the files of the base model are not on this node any more")
            self._base_shapes = shapes
        check_adapter(path, self._base_shapes, self._max_rank)


def check_adapter(path: Path, base: dict[str, Shape], max_rank: int) -> None:
    """Refuse what vLLM would misread or fail on.

    Args:
        base: tensor name → shape of the base model.

    Raises:
        InvalidArtifact: with the first reason.
    """
    config = _read_adapter_config(path)
    rank = read_rank(config)
    if rank is None or rank > max_rank:
        raise InvalidArtifact(
            f"the adapter has LoRA rank {config.get('r')!r}, and this engine serves 1 to "
            f"{max_rank}: configure its endpoint with a max_lora_rank that is as high, and deploy "
            "it again"
        )
    if options := find_unserved_options(config):
        raise InvalidArtifact(
            f"the adapter uses {', '.join(options)}, which the engine cannot serve"
        )
    shapes = read_tensor_shapes(path / ADAPTER_WEIGHTS)
    if not shapes:
        raise InvalidArtifact("the adapter holds no tensors")
    for name, shape in shapes.items():
        _check_tensor(name, shape, base, rank)


def _read_adapter_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidArtifact(f"{ADAPTER_CONFIG} is missing or not JSON") from error
    if not isinstance(config, dict):
        raise InvalidArtifact(f"{ADAPTER_CONFIG} is not an object")
    return config


def _check_tensor(name: str, shape: Shape, base: dict[str, Shape], rank: int) -> None:
    module, found, half = name.removeprefix(_PREFIX).rpartition(".lora_")
    rank_side = {"A.weight": 0, "B.weight": 1}.get(half)
    if found and rank_side is not None and any(f"{module}.{end}" in base for end in _PACKED):
        # Packed integers do not show the layer's shape, only the rank can be compared.
        if len(shape) != 2 or shape[rank_side] != rank:
            raise InvalidArtifact(f"{name} has shape {shape}, which does not fit rank {rank}")
        return
    target = base.get(f"{module}.weight")
    if not found or target is None or len(target) != 2:
        raise InvalidArtifact(f"{name} matches no layer of the base")
    d_out, d_in = target
    expected = {"A.weight": (rank, d_in), "B.weight": (d_out, rank)}.get(half)
    if shape != expected:
        raise InvalidArtifact(f"{name} has shape {shape}, the base needs {expected}")


def read_base_shapes(path: Path) -> dict[str, Shape]:
    return {
        name: shape
        for file in sorted(path.glob(f"*{WEIGHTS_SUFFIX}"))
        for name, shape in read_tensor_shapes(file).items()
    }


def read_tensor_shapes(path: Path) -> dict[str, Shape]:
    """Names and shapes from the header of a safetensors file; no tensor is read.

    Raises:
        InvalidArtifact: it is no safetensors file, or a damaged one.
    """
    return {name: tensor.shape for name, tensor in read_header(path).items()}
