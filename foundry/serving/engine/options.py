"""From an endpoint's configuration to what an engine is started with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from foundry.config import ServingSettings
from foundry.errors import InvalidConfiguration
from foundry.serving.engine.hardware import Hardware, Node

# vLLM quantises these while it loads; other formats need a checkpoint that is in them already.
_ON_LOAD = {"fp8": "fp8"}
# Work runs in vLLM's own processes; this only lets Ray place a replica that names no cores.
_PLACED_CPU, _PLACED_GPU = 0.5, 1.0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of an endpoint beyond the settings' serving section; None follows the engine.

    Attributes:
        quantization: of the weights while they load; `none` keeps the checkpoint's format.
        gpu_type: catalogue id of the accelerators to run on; None: any.
        gpu_count: accelerators of one replica, if the configuration counts them.
        cpu_cores: reserved for one replica; None: hardly any, it takes what is there.
        memory_gb: reserved for one replica; None: nothing is reserved.
        strategy: how a new revision replaces a running one; None: as the cluster's room allows.
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
    gpu_count: int | None = None
    cpu_cores: float | None = None
    memory_gb: float | None = None
    strategy: str | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """The options in an endpoint's configuration, without those of the serving section."""
        named = {name: config[name] for name in cls.__slots__ if name in config}
        resources = config.get("resources") or {}
        given = ("gpu_type", "gpu_count", "cpu_cores", "memory_gb")
        return cls(**{**named, **{name: resources.get(name) for name in given}})

    @property
    def gpus(self) -> int:
        """Accelerators of one replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def need(self, *, on_cpu: bool) -> Node:
        """What one replica reserves."""
        placed = _PLACED_CPU if on_cpu else _PLACED_GPU
        return Node(
            cpus=placed if self.cpu_cores is None else self.cpu_cores,
            memory_gb=self.memory_gb or 0.0,
            gpus=0.0 if on_cpu else float(self.gpus),
        )

    def faults(self) -> list[str]:
        """Why no cluster could run it; says what to do."""
        found = []
        if self.runtime != "vllm":
            found.append(f"engines here run vllm, not {self.runtime}: configure runtime vllm")
        if self.quantization not in ("none", *_ON_LOAD):
            found.append(
                f"no engine here quantises to {self.quantization} while it loads: import a "
                f"checkpoint in {self.quantization} and configure quantization none"
            )
        if self.gpu_count is not None and self.gpu_count not in (0, self.gpus):
            found.append(
                f"resources.gpu_count {self.gpu_count} is not tensor_parallel_size "
                f"{self.tensor_parallel_size} x pipeline_parallel_size "
                f"{self.pipeline_parallel_size} = {self.gpus}: leave it out or make them agree"
            )
        return found

    def lacks(self, hardware: Hardware) -> list[str]:
        """What this cluster does not have for it; says what to do."""
        found = self._lacks_on_cpu() if hardware.on_cpu else self._lacks_type(hardware)
        need = self.need(on_cpu=hardware.on_cpu)
        if not found and sum(node.holds(need) for node in hardware.nodes) < self.replicas:
            largest = max((node.cpus for node in hardware.nodes), default=0.0)
            memory = max((node.memory_gb for node in hardware.nodes), default=0.0)
            gpus = max((node.gpus for node in hardware.nodes), default=0.0)
            found.append(
                f"{self.replicas} replicas of {need.cpus:g} CPU cores, {need.memory_gb:g} GB and "
                f"{need.gpus:g} accelerators each do not fit: the largest node has {largest:g} "
                f"cores, {memory:.1f} GB and {gpus:g} accelerators; configure less or add nodes"
            )
        return found

    def _lacks_on_cpu(self) -> list[str]:
        found = []
        if self.gpu_type not in (None, "cpu"):
            found.append(
                f"this cluster has no {self.gpu_type}: add such a node, or configure the endpoint "
                "for the accelerators that are here"
            )
        if self.gpus > 1:
            found.append(
                f"this cluster has no accelerator: tensor_parallel_size "
                f"{self.tensor_parallel_size} and pipeline_parallel_size "
                f"{self.pipeline_parallel_size} must both be 1"
            )
        if self.quantization in _ON_LOAD or self.kv_cache_dtype != "auto":
            found.append(
                "engines on CPUs keep the checkpoint's formats: "
                "configure quantization none and kv_cache_dtype auto"
            )
        return found

    def _lacks_type(self, hardware: Hardware) -> list[str]:
        if self.gpu_type in (None, "cpu") or self.gpu_type in hardware.accelerators:
            return []
        known = ", ".join(sorted(hardware.accelerators)) or "no known accelerator"
        return [
            f"this cluster has no {self.gpu_type}, but {known}: "
            "configure the endpoint for what is here"
        ]

    def check(self, hardware: Hardware) -> None:
        """Refuse what this cluster's engines cannot do.

        Raises:
            InvalidConfiguration: lists every reason.
        """
        if reasons := [*self.faults(), *self.lacks(hardware)]:
            raise InvalidConfiguration("; ".join(reasons), violations=reasons)

    def accelerator(self, here: Mapping[str, str]) -> str | None:
        """The scheduler's name of `gpu_type`; None: any will do.

        Args:
            here: the cluster's accelerators, from catalogue id to the scheduler's name.
        """
        return here.get(self.gpu_type) if self.gpu_type is not None else None

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
