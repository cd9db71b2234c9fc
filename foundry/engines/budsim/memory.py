"""Where an accelerator's memory goes, and how many sequences its KV cache holds."""

from dataclasses import dataclass

import numpy as np

from foundry.engines.budsim.architecture import WEIGHT_BYTES, ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configurations, Floats, Ints
from foundry.engines.budsim.request import KV_DTYPES, QUANTIZATIONS

_GIB = float(1 << 30)
# Measured on vLLM 0.19 by llm-d-planner: activations of 8,192 tokens with a vocabulary of up to
# 152,000, and the buffers of the collectives without and with tensor parallelism.
_ACTIVATION_BYTES = 2.3 * _GIB
_ACTIVATION_TOKENS = 8192
_ACTIVATION_VOCABULARY = 152_000
_ALONE_BYTES = 0.27 * _GIB
_TOGETHER_BYTES = 2.1 * _GIB
# A node's own memory serves a CPU engine: no CUDA context, no graphs.
_CPU_ACTIVATION_BYTES = 0.5 * _GIB
_FORMAT_SLACK = 0.05
_MOST_SLOTS = 1 << 20


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """Bytes of one accelerator, shape (N,) each.

    Attributes:
        limit: what the engine may use: utilisation times the accelerator's memory.
        free: left for the KV cache; negative where the weights alone do not fit.
        kv_per_sequence: KV cache and state of one sequence of the asked length.
        slots: sequences of that length that fit at once; 0 where none does.
    """

    weights: Floats
    activations: Floats
    communication: Floats
    limit: Floats
    free: Floats
    kv_per_sequence: Floats
    slots: Ints


def weight_bytes(spec: ModelSpec, configurations: Configurations) -> Floats:
    """Bytes per weight under each configuration's quantisation, shape (N,)."""
    own = spec.checkpoint_bytes / spec.parameters if spec.checkpoint_bytes else 0.0
    by_code = [own or WEIGHT_BYTES[spec.weight_format]]
    # Weights already narrower than asked for stay as they are.
    by_code += [min(by_code[0], WEIGHT_BYTES[name]) for name in QUANTIZATIONS if name != "none"]
    return np.asarray(by_code)[configurations.quantization]


def nominal(width: Floats) -> Floats:
    """Bytes per weight of the format that is meant, shape (N,): files hold a little more or less
    than their format says."""
    known = np.asarray(sorted(set(WEIGHT_BYTES.values())))
    nearest = known[np.abs(width[:, None] - known).argmin(axis=1)]
    return np.where(np.abs(width / nearest - 1.0) <= _FORMAT_SLACK, nearest, width)


def kv_element_bytes(configurations: Configurations) -> Floats:
    """Bytes per cached value, shape (N,)."""
    return np.asarray([1.0 if name == "fp8" else 2.0 for name in KV_DTYPES])[
        configurations.kv_dtype
    ]


def memory_map(
    spec: ModelSpec,
    catalogue: Catalogue,
    configurations: Configurations,
    sequence_tokens: float | Floats,
) -> MemoryMap:
    """Memory under each configuration.

    Args:
        sequence_tokens: tokens of one sequence, shape () or (N,); at least 1.
    """
    gpus = [catalogue.gpu(name) for name in configurations.gpus]
    memory = np.asarray([gpu.memory_gb * 1e9 for gpu in gpus])[configurations.gpu]
    on_cpu = np.asarray([gpu.vendor == "cpu" for gpu in gpus])[configurations.gpu]
    ranks = configurations.tp * configurations.pp
    weights = spec.parameters * weight_bytes(spec, configurations) / ranks
    activations = _activations(spec, configurations, on_cpu)
    communication = np.where(configurations.tp > 1, _TOGETHER_BYTES, _ALONE_BYTES)
    communication = np.where(on_cpu, 0.0, communication)
    limit = configurations.gpu_memory_utilization * memory
    free = limit - weights - activations - communication
    sequence = sequence_bytes(spec, configurations, sequence_tokens)
    slots = np.clip(np.floor(np.maximum(free, 0.0) / sequence), 0, _MOST_SLOTS).astype(np.int64)
    return MemoryMap(weights, activations, communication, limit, free, sequence, slots)


def _activations(spec: ModelSpec, configurations: Configurations, on_cpu: np.ndarray) -> Floats:
    tokens = np.maximum(configurations.max_num_batched_tokens / _ACTIVATION_TOKENS, 0.25)
    vocabulary = max(spec.vocabulary / _ACTIVATION_VOCABULARY, 1.0)
    return np.where(on_cpu, _CPU_ACTIVATION_BYTES, _ACTIVATION_BYTES * tokens * vocabulary)


def sequence_bytes(
    spec: ModelSpec, configurations: Configurations, tokens: float | Ints | Floats
) -> Floats:
    """KV cache and state of one sequence on one accelerator, shape (N,); bytes, at least 1.

    Latent caches and recurrent states are whole on every tensor parallel rank.
    """
    shards = (
        np.ones(len(configurations))
        if spec.latent
        else np.minimum(configurations.tp, max(spec.kv_heads, 1))
    )
    elements = spec.full_layers * spec.kv_width * tokens
    elements = elements + spec.sliding_layers * spec.kv_width * np.minimum(tokens, spec.window)
    cache = elements * kv_element_bytes(configurations) / shards / configurations.pp
    return np.maximum(cache + spec.state_bytes / configurations.pp, 1.0)
