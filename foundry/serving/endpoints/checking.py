"""Whether an endpoint's configuration can be served: every reason at once, at the call."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from foundry.catalog.registry.domain import Manifest
from foundry.catalog.registry.service import ModelVersion, Registry
from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.model_config import model_spec
from foundry.errors import FoundryError, InvalidConfiguration, Unavailable
from foundry.infra.objects import ObjectStore
from foundry.serving.engine.hardware import LiveHardware
from foundry.serving.engine.runtime import RuntimeRules, VllmRules
from foundry.serving.engine.shape import ModelShape

_CONFIG = "config.json"
# Those of models are a few KiB.
_MAX_CONFIG_BYTES = 2**20
# Shapes are small; versions never change, so one that was read stays right.
_CAPACITY = 1024
# A transaction is open meanwhile: a store that takes longer says nothing of the shape.
_READ_S = 2.0


class ModelShapes:
    """Shapes of registered versions, read once from their `config.json`."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._specs: OrderedDict[str, ModelSpec | None] = OrderedDict()

    async def read_shape(self, manifest: Manifest, context_length: int | None) -> ModelShape:
        """What is known of a version; what cannot be read or understood is unknown.

        Args:
            context_length: as the registry has it.
        """
        if manifest.digest not in self._specs:
            try:
                async with asyncio.timeout(_READ_S):
                    spec = await self._read_spec(manifest)
            except (TimeoutError, FoundryError, OSError):
                # Of the store, not of the model: the next call asks again.
                return ModelShape(context_length)
            self._specs[manifest.digest] = spec
            while len(self._specs) > _CAPACITY:
                self._specs.popitem(last=False)
        return ModelShape(context_length, self._specs[manifest.digest])

    async def _read_spec(self, manifest: Manifest) -> ModelSpec | None:
        files = {file.path: file for file in manifest.files}
        if _CONFIG not in files or files[_CONFIG].size > _MAX_CONFIG_BYTES:
            return None
        text = await self._objects.get_bytes(files[_CONFIG].object_key)
        weights = sum(file.size for path, file in files.items() if path.endswith(".safetensors"))
        return await asyncio.to_thread(_parse_spec, text, weights or None)


def _parse_spec(text: bytes, checkpoint_bytes: int | None) -> ModelSpec | None:
    try:
        config = json.loads(text)
        if not isinstance(config, dict):
            return None
        spec = model_spec(config, checkpoint_bytes=checkpoint_bytes)
    except (ValueError, TypeError, RecursionError, FoundryError):
        return None
    # Of a model that is only counted like its nearest kin, nothing is certain.
    return spec if spec.exact else None


class EngineCheck:
    """Asks the rules of the engine at the call; the supervisor asks them again."""

    def __init__(
        self,
        rules: RuntimeRules | None = None,
        hardware: LiveHardware | None = None,
        shapes: ModelShapes | None = None,
    ) -> None:
        """Remember whom to ask.

        Args:
            hardware, shapes: None: only what holds everywhere is checked.
        """
        self._rules = rules or VllmRules()
        self._hardware = hardware
        self._shapes = shapes

    async def check(
        self,
        registry: Registry,
        base: ModelVersion,
        config: Mapping[str, Any],
        *,
        anywhere: bool = False,
    ) -> None:
        """Refuse what cannot be served. Raises InvalidConfiguration, with every reason.

        Args:
            anywhere: nothing is started yet, so the cluster may still grow.
        """
        hardware = None
        if self._hardware is not None and not anywhere:
            # The supervisor checks again: a cluster that does not answer refuses nothing here.
            with suppress(Unavailable):
                hardware = await self._hardware.read_hardware()
        shape = ModelShape(base.context_length)
        if self._shapes is not None:
            manifest = await registry.manifest(base.id)
            shape = await self._shapes.read_shape(manifest, base.context_length)
        report = self._rules.supports(config, hardware, model=shape)
        if not report.ok:
            violations = [*report.reasons, *report.missing]
            raise InvalidConfiguration("; ".join(violations), violations=violations)
