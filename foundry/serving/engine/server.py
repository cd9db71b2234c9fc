"""The replica of an engine application: Ray's LLMServer with our loader and our frames."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import torch
from ray import serve
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
from ray.llm._internal.serve.core.server.llm_server import LLMServer

from foundry.catalog.registry.domain import Manifest
from foundry.catalog.registry.service import load_manifest
from foundry.config import ServingSettings, load_settings
from foundry.infra.wire.frames import CallContext, Operation
from foundry.infra.wiring import open_database, open_weights
from foundry.serving.engine.adapter_files import RegistryAdapters
from foundry.serving.engine.adapters import AdapterSource, ResidentAdapters
from foundry.serving.engine.deployment import EngineSpec
from foundry.serving.engine.replica import Replica
from foundry.serving.engine.vllm_engine import VllmEngine

_GIB = 2**30


def engine_arguments(serving: ServingSettings, *, on_cpu: bool) -> dict[str, Any]:
    """vLLM's arguments."""
    arguments: dict[str, Any] = {
        "dtype": "float32" if serving.dtype == "auto" and on_cpu else serving.dtype,
        "max_model_len": serving.max_model_len,
        "max_num_seqs": serving.max_num_seqs,
        "enable_lora": True,
        "max_loras": serving.max_loras,
        "max_cpu_loras": max(serving.max_cpu_loras, serving.max_loras),
        "max_lora_rank": serving.max_lora_rank,
        "disable_log_stats": True,
        "trust_remote_code": False,
    }
    if on_cpu:
        arguments["kv_cache_memory_bytes"] = int(serving.kv_cache_gb * _GIB)
    return arguments


class FoundryLLMServer(LLMServer):  # type: ignore[misc]
    """Resolves ids, starts the engine, streams bytes."""

    @classmethod
    async def create(cls, spec: EngineSpec) -> Self:
        """Ray's way to construct a server whose constructor is a coroutine."""
        server = cls.__new__(cls)
        await server.__init__(spec)  # type: ignore[misc]
        return server

    async def __init__(self, spec: EngineSpec) -> None:  # type: ignore[misc]
        base, base_dir, source = await self._resolve_base(spec)
        self._init_shared(_llm_config(spec, base.digest, base_dir), VllmEngine)
        await self.start()
        adapters = ResidentAdapters(self.engine, source, capacity=spec.serving.max_cpu_loras)
        rank = serve.get_replica_context().rank
        self._replica = Replica(self.engine, adapters, rank=rank.rank if rank else 0)

    async def _resolve_base(self, spec: EngineSpec) -> tuple[Manifest, Path, AdapterSource]:
        """The base's manifest and local files, and where its adapters come from."""
        settings = load_settings()
        self._database = open_database(settings)
        weights = open_weights(settings)
        base = await self._load_manifest(str(spec.base_version_id))
        base_dir = await weights.ensure(base.digest, base.files, keep=True)
        max_rank = spec.serving.max_lora_rank
        source = RegistryAdapters(
            self._load_manifest, weights, base=base, base_dir=base_dir, max_rank=max_rank
        )
        return base, base_dir, source

    async def _load_manifest(self, version_id: str) -> Manifest:
        return await load_manifest(self._database, UUID(version_id))

    async def stream(
        self, operation: Operation, body: bytes, context: CallContext
    ) -> AsyncGenerator[bytes, None]:
        async for message in self._replica.stream(operation, body, context):
            yield message


def _llm_config(spec: EngineSpec, base_digest: str, base_dir: Path) -> LLMConfig:
    on_cpu = not torch.cuda.is_available()
    return LLMConfig(
        model_loading_config={"model_id": f"m{base_digest[:24]}", "model_source": str(base_dir)},
        engine_kwargs=engine_arguments(spec.serving, on_cpu=on_cpu)
        | spec.options.arguments(on_cpu=on_cpu),
        accelerator_config={"kind": "cpu"} if on_cpu else None,
        log_engine_metrics=False,
    )
