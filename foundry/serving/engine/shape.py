"""The shape of a model against the accelerators that are to hold it.

Only what can never work is said: what an engine needs beside weights and one sequence's KV cache
(activations, collectives, adapters) is left out, and nothing is said of a shape or of memory that
is not known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foundry.config import ServingSettings
from foundry.engines.budsim.architecture import WEIGHT_BYTES, ModelSpec
from foundry.serving.engine.hardware import Hardware
from foundry.serving.engine.options import EngineOptions, serving_of

_GB, _GIB = 1e9, float(1 << 30)
# What vLLM 0.29 takes of an accelerator where nothing is configured.
_UTILIZATION = 0.92
_MOST_RANKS = 64
# Formats that an engine converts to its own type while it loads; others are kept.
_PLAIN = frozenset({"fp32", "bf16", "fp16"})


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the registry knows of a model that matters to an engine.

    Attributes:
        context_length: tokens; None: unknown.
        spec: its layers and heads; None: its configuration is not understood.
        architectures: as its configuration names them; empty: unknown.
    """

    context_length: int | None = None
    spec: ModelSpec | None = None
    architectures: tuple[str, ...] = ()


def find_head_faults(options: EngineOptions, spec: ModelSpec) -> list[str]:
    """Why the model cannot be cut into so many pieces, by vLLM's rules."""
    tensor, pipeline = options.tensor_parallel_size, options.pipeline_parallel_size
    found = []
    if not _divides(tensor, spec):
        # Latent attention keeps one cache on every rank: its single head is no constraint.
        choices = [str(n) for n in range(1, _MOST_RANKS + 1) if _divides(n, spec)]
        found.append(
            f"tensor_parallel_size {tensor} does not divide the model's {spec.heads} attention "
            f"heads with {spec.kv_heads} key-value heads: configure one of {', '.join(choices)}"
        )
    if pipeline > spec.layers:
        found.append(
            f"pipeline_parallel_size {pipeline} is more than the model's {spec.layers} layers: "
            f"configure at most {spec.layers}"
        )
    return found


def find_context_faults(
    config: Mapping[str, Any], shape: ModelShape, serving: ServingSettings, hardware: Hardware
) -> list[str]:
    """Why one sequence of the context finds no room in the KV cache that a CPU engine is given."""
    if not hardware.on_cpu or shape.spec is None:
        return []
    wanted = limit_context(serving_of(serving, config), shape)
    sequence = shape.spec.kv_bytes(wanted.max_model_len, _value_bytes(wanted.dtype, on_cpu=True))
    cache = wanted.kv_cache_gb * _GIB
    if sequence <= cache:
        return []
    longest = int(wanted.max_model_len * cache / sequence)
    return [
        f"one sequence of max_model_len {wanted.max_model_len} needs {sequence / _GB:.2f} GB of KV "
        f"cache, and engines on CPUs have {cache / _GB:.2f} GB: configure max_model_len {longest} "
        "or less, or raise FOUNDRY_SERVING__KV_CACHE_GB"
    ]


def find_missing_memory(
    config: Mapping[str, Any], shape: ModelShape, serving: ServingSettings, hardware: Hardware
) -> list[str]:
    """What this cluster's memory lacks for the weights and one sequence of the context."""
    options, spec = EngineOptions.of(config), shape.spec
    memory = hardware.host_gb if hardware.on_cpu else hardware.accelerator_gb(options.gpu_type)
    if spec is None or memory is None:
        return []
    wanted = limit_context(serving_of(serving, config), shape)
    weights = weight_bytes(spec, options, wanted.dtype, on_cpu=hardware.on_cpu)
    if hardware.on_cpu:
        cache = wanted.kv_cache_gb * _GIB
        if weights + cache <= memory * _GB:
            return []
        return [
            f"the model does not fit: {weights / _GB:.2f} GB of weights and {cache / _GB:.2f} GB "
            f"of KV cache are more than the {memory:.2f} GB of the largest node: lower "
            "FOUNDRY_SERVING__KV_CACHE_GB, serve a smaller model or add nodes"
        ]
    sequence = _sequence_bytes(spec, options, wanted)
    usable = memory * (options.gpu_memory_utilization or _UTILIZATION)
    if weights / options.gpus + sequence <= usable * _GB:
        return []
    return [
        f"the model does not fit: {weights / options.gpus / _GB:.2f} GB of weights and "
        f"{sequence / _GB:.2f} GB of KV cache for one sequence of {wanted.max_model_len} tokens, "
        f"on each of {options.gpus} accelerators, are more than the {usable:.2f} of {memory:g} GB "
        "that the engine may use: configure a higher tensor_parallel_size, a shorter "
        "max_model_len or a quantization"
    ]


def limit_context(serving: ServingSettings, shape: ModelShape) -> ServingSettings:
    """Never a longer context than the model's: vLLM would not start."""
    if shape.context_length is None or shape.context_length >= serving.max_model_len:
        return serving
    return serving.model_copy(update={"max_model_len": shape.context_length})


def weight_bytes(spec: ModelSpec, options: EngineOptions, dtype: str, *, on_cpu: bool) -> float:
    """Of all weights once they are loaded."""
    if spec.weight_format not in _PLAIN:
        return spec.checkpoint_bytes or spec.parameters * WEIGHT_BYTES[spec.weight_format]
    if options.quantization == "fp8":
        return spec.parameters * WEIGHT_BYTES["fp8"]
    return spec.parameters * _value_bytes(dtype, on_cpu=on_cpu)


def _sequence_bytes(spec: ModelSpec, options: EngineOptions, serving: ServingSettings) -> float:
    """KV cache of one sequence on one accelerator."""
    value = 1.0 if options.kv_cache_dtype == "fp8" else _value_bytes(serving.dtype, on_cpu=False)
    ranks = 1 if spec.latent else min(options.tensor_parallel_size, max(spec.kv_heads, 1))
    whole = spec.kv_bytes(serving.max_model_len, value)
    return whole / ranks / options.pipeline_parallel_size


def _value_bytes(dtype: str, *, on_cpu: bool) -> float:
    """Of one number as the engine computes it; `auto` is float32 on CPUs and 16 bits elsewhere."""
    return 4.0 if dtype == "float32" or (dtype == "auto" and on_cpu) else 2.0


def _divides(tensor: int, spec: ModelSpec) -> bool:
    if spec.heads % tensor:
        return False
    more, less = max(spec.kv_heads, tensor), max(min(spec.kv_heads, tensor), 1)
    return spec.latent or more % less == 0
