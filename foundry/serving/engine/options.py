"""From an endpoint's configuration to what an engine is started with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from foundry.config import ServingSettings
from foundry.errors import UnsupportedFeature

# vLLM quantises these while it loads; other formats need a checkpoint that is in them already.
_ON_LOAD = {"fp8": "fp8"}


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of an endpoint beyond the settings' serving section; None follows the engine.

    Attributes:
        quantization: of the weights while they load; `none` keeps the checkpoint's format.
        gpu_type: catalogue id of the accelerators to run on; None: any.
    """

    runtime: str = "vllm"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    quantization: str = "none"
    kv_cache_dtype: str = "auto"
    replicas: int = 1
    gpu_type: str | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Of an endpoint's configuration; what belongs to the serving section is left out."""
        named = {name: config[name] for name in cls.__slots__ if name in config}
        resources = config.get("resources") or {}
        return cls(**{**named, "gpu_type": resources.get("gpu_type")})

    @property
    def gpus(self) -> int:
        """Accelerators of one replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def check(self, *, on_cpu: bool) -> None:
        """Raises UnsupportedFeature: this cluster's engines cannot do it; says what they can."""
        if self.runtime != "vllm":
            raise UnsupportedFeature(
                f"engines here run vllm, not {self.runtime}: configure runtime vllm"
            )
        if on_cpu and self.gpu_type not in (None, "cpu"):
            raise UnsupportedFeature(
                f"this cluster has no {self.gpu_type}: add such a node, or configure the endpoint "
                "for the accelerators that are here"
            )
        if on_cpu and self.gpus > 1:
            raise UnsupportedFeature(
                f"this cluster has no accelerator: tensor_parallel_size "
                f"{self.tensor_parallel_size} and pipeline_parallel_size "
                f"{self.pipeline_parallel_size} must both be 1"
            )
        if on_cpu and (self.quantization != "none" or self.kv_cache_dtype != "auto"):
            raise UnsupportedFeature(
                "engines on CPUs keep the checkpoint's formats: "
                "configure quantization none and kv_cache_dtype auto"
            )
        if self.quantization not in ("none", *_ON_LOAD):
            raise UnsupportedFeature(
                f"no engine here quantises to {self.quantization} while it loads: import a "
                f"checkpoint in {self.quantization} and configure quantization none"
            )

    def accelerator(self, here: Mapping[str, str]) -> str | None:
        """The scheduler's name of `gpu_type`; None: any will do.

        Args:
            here: the cluster's accelerators, from catalogue id to the scheduler's name.
        Raises:
            UnsupportedFeature: the cluster has none of that type.
        """
        if self.gpu_type in (None, "cpu"):
            return None
        if self.gpu_type not in here:
            known = ", ".join(sorted(here)) or "no known accelerator"
            raise UnsupportedFeature(
                f"this cluster has no {self.gpu_type}, but {known}: "
                "configure the endpoint for what is here"
            )
        return here[self.gpu_type]

    def arguments(self, *, on_cpu: bool) -> dict[str, Any]:
        """vLLM's arguments for what is set."""
        found: dict[str, Any] = {}
        if self.max_num_batched_tokens is not None:
            found["max_num_batched_tokens"] = self.max_num_batched_tokens
        if on_cpu:
            return found
        if self.gpus > 1:
            found["tensor_parallel_size"] = self.tensor_parallel_size
            found["pipeline_parallel_size"] = self.pipeline_parallel_size
        if self.gpu_memory_utilization is not None:
            found["gpu_memory_utilization"] = self.gpu_memory_utilization
        if self.quantization in _ON_LOAD:
            found["quantization"] = _ON_LOAD[self.quantization]
        if self.kv_cache_dtype != "auto":
            found["kv_cache_dtype"] = self.kv_cache_dtype
        return found


def serving_of(settings: ServingSettings, config: Mapping[str, Any]) -> ServingSettings:
    """The settings' serving section under what an endpoint's configuration says of it."""
    named = {name: value for name, value in config.items() if name in ServingSettings.model_fields}
    return ServingSettings(**(settings.model_dump() | named))
