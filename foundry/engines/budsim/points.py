"""Operating points: model, hardware, configuration and load as columns, without any name.

Training rows and questions take this one form, so that nothing can be learnt from an identity.
"""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from foundry.engines.budsim.architecture import ModelSpec

Column = NDArray[np.float64]

# The last one is what training knows of engines that Foundry does not run.
ENGINES = ("vllm", "sglang", "tensorrt-llm", "unknown")

# Tokens per step where a source does not say: the engines' own default.
DEFAULT_CHUNK = 8192.0


@dataclass(frozen=True, slots=True)
class Points:
    """N operating points of one replica; every field has shape (N,).

    Model: see `ModelSpec`; `latent` and `encoder` (an encoder reads the prompt) are 0 or 1;
    parameters leave out the tables that are only looked up. Hardware, per accelerator: `memory`
    bytes, `bandwidth` bytes/s, `flops` operations/s in the compute format, `flops16` in 16 bit,
    `link` bytes/s in one direction, `nvlink` 0 or 1.

    Attributes:
        native: 1 where the arithmetic runs in the weights' own format, 0 where weights are
            widened first (4 bit on Hopper, for example).
        tp, pp, dp: tensor, pipeline and attention data parallel degrees.
        ep: degree of expert parallelism, within tp·dp.
        wb, kb: bytes per weight and per KV cache element.
        batch: sequences in flight per attention data parallel rank.
        input, output: tokens per request; `cached` of the input are in the prefix cache.
        chunk: max_num_batched_tokens.
        engine: index into ENGINES.
        month: of the engine's release, months since January 2023.
    """

    layers: Column
    full_layers: Column
    hidden: Column
    heads: Column
    kv_heads: Column
    head_dim: Column
    kv_width: Column
    latent: Column
    parameters: Column
    active: Column
    experts: Column
    experts_per_token: Column
    expert_parameters: Column
    sliding_layers: Column
    window: Column
    encoder: Column
    memory: Column
    bandwidth: Column
    flops: Column
    flops16: Column
    link: Column
    nvlink: Column
    native: Column
    tp: Column
    pp: Column
    dp: Column
    ep: Column
    wb: Column
    kb: Column
    batch: Column
    input: Column
    cached: Column
    output: Column
    chunk: Column
    engine: Column
    month: Column

    def __len__(self) -> int:
        return len(self.layers)

    def take(self, indices: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        return type(self)(**{item.name: getattr(self, item.name)[indices] for item in fields(self)})


def model_columns(spec: ModelSpec, n: int) -> dict[str, Column]:
    """The model's fields of `Points`, n times."""
    values = {
        "layers": spec.layers,
        "full_layers": spec.full_layers,
        "hidden": spec.hidden,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "kv_width": spec.kv_width,
        "latent": float(spec.latent),
        "parameters": spec.parameters - spec.lookup_parameters,
        "active": spec.active_parameters - spec.lookup_parameters,
        "experts": spec.experts,
        "experts_per_token": spec.experts_per_token,
        "expert_parameters": spec.expert_parameters,
        "sliding_layers": spec.sliding_layers,
        "window": spec.window,
        "encoder": 0.0,
    }
    return {name: np.full(n, float(value)) for name, value in values.items()}
