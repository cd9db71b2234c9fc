"""Whether an endpoint's configuration can be served: every reason at once, at the call."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from foundry.catalog.registry.documents import read_document
from foundry.catalog.registry.domain import Manifest
from foundry.catalog.registry.service import ModelVersion, Registry
from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.model_config import model_spec
from foundry.engines.model_files import CONFIG, WEIGHTS_SUFFIX
from foundry.errors import FoundryError, InvalidConfiguration, Unavailable
from foundry.infra.objects import ObjectStore
from foundry.serving.engine.hardware import LiveHardware, ask_hardware
from foundry.serving.engine.runtime import RuntimeRules, VllmRules
from foundry.serving.engine.shape import ModelShape

# Shapes are small; versions never change, so one that was read stays right.
_CAPACITY = 1024


class ModelShapes:
    """Shapes of registered versions, read once from their `config.json`."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._shapes: OrderedDict[str, ModelShape] = OrderedDict()

    async def read_shape(self, manifest: Manifest, context_length: int | None) -> ModelShape:
        """What is known of a version; what cannot be read or understood is unknown.

        Args:
            context_length: as the registry has it.
        """
        if manifest.digest not in self._shapes:
            try:
                document = await read_document(self._objects, manifest, CONFIG)
            except Unavailable:
                # Of the store, not of the model: the next call asks again.
                return ModelShape(context_length)
            shape = await asyncio.to_thread(_parse_shape, document or {}, manifest)
            self._shapes[manifest.digest] = shape
            while len(self._shapes) > _CAPACITY:
                self._shapes.popitem(last=False)
        return replace(self._shapes[manifest.digest], context_length=context_length)


def _parse_shape(config: dict[str, Any], manifest: Manifest) -> ModelShape:
    names = config.get("architectures")
    return ModelShape(
        spec=_parse_spec(config, manifest),
        architectures=tuple(map(str, names)) if isinstance(names, list) else (),
    )


def _parse_spec(config: dict[str, Any], manifest: Manifest) -> ModelSpec | None:
    sizes = (file.size for file in manifest.files if file.path.endswith(WEIGHTS_SUFFIX))
    try:
        spec = model_spec(config, checkpoint_bytes=sum(sizes) or None)
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
        hardware = None if anywhere else await ask_hardware(self._hardware)
        shape = ModelShape(base.context_length)
        if self._shapes is not None:
            manifest = await registry.manifest(base.id)
            shape = await self._shapes.read_shape(manifest, base.context_length)
        report = self._rules.supports(config, hardware, model=shape)
        if not report.ok:
            violations = [*report.reasons, *report.missing]
            raise InvalidConfiguration("; ".join(violations), violations=violations)
