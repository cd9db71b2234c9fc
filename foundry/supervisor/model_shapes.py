"""Shapes of the models that endpoints serve, as the registry knows them."""

from typing import Protocol

from foundry.catalog.registry.service import find_version, load_manifest
from foundry.errors import ModelNotFound
from foundry.infra.database import Database
from foundry.serving.endpoints.checking import ModelShapes
from foundry.serving.endpoints.domain import EndpointSnapshot
from foundry.serving.engine.shape import ModelShape


class EndpointShapes(Protocol):
    async def read_shape(self, endpoint: EndpointSnapshot) -> ModelShape:
        """What is known of the endpoint's base model."""


class RegisteredShapes:
    """Implements `EndpointShapes`."""

    def __init__(self, database: Database, shapes: ModelShapes) -> None:
        self._database = database
        self._shapes = shapes

    async def read_shape(self, endpoint: EndpointSnapshot) -> ModelShape:
        """What the registry knows of the endpoint's base. Raises DatabaseUnavailable."""
        base_id = endpoint.model_version_id
        async with self._database.begin() as db:
            base = await find_version(db, endpoint.tenant_id, base_id)
        try:
            manifest = await load_manifest(self._database, base_id)
        except ModelNotFound:
            # The transfer of its files says so.
            return ModelShape()
        return await self._shapes.read_shape(manifest, base.context_length if base else None)
