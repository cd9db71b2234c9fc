"""Serving configurations: one, and many as columns."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from foundry.engines.budsim.request import (
    KV_DTYPES,
    QUANTIZATIONS,
    RUNTIMES,
    KvDtype,
    Quantization,
    Runtime,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the user sets, per replica except `replicas`.

    Attributes:
        gpu: catalogue id.
        quantization: of the weights; `none` leaves the checkpoint's format.
        max_num_batched_tokens: of one engine step; the specification's "batch size".
    """

    gpu: str
    runtime: Runtime = "vllm"
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    replicas: int = 1
    max_model_len: int = 8192
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    gpu_memory_utilization: float = 0.9
    quantization: Quantization = "none"
    kv_cache_dtype: KvDtype = "auto"

    @property
    def gpus(self) -> int:
        """Accelerators of all replicas."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.replicas


@dataclass(frozen=True, slots=True)
class Configurations:
    """N configurations as columns, all of shape (N,).

    Categories are indices: `gpu` into `gpus`, `runtime` into RUNTIMES, `quantization` into
    QUANTIZATIONS, `kv_dtype` into KV_DTYPES.
    """

    gpus: tuple[str, ...]
    gpu: Ints
    runtime: Ints
    tp: Ints
    pp: Ints
    replicas: Ints
    max_model_len: Ints
    max_num_seqs: Ints
    max_num_batched_tokens: Ints
    gpu_memory_utilization: Floats
    quantization: Ints
    kv_dtype: Ints

    def __len__(self) -> int:
        return len(self.gpu)

    @classmethod
    def of(cls, rows: Sequence[Configuration]) -> Self:
        gpus = tuple(sorted({row.gpu for row in rows}))

        def ints(values: list[int]) -> Ints:
            return np.asarray(values, dtype=np.int64)

        return cls(
            gpus=gpus,
            gpu=ints([gpus.index(row.gpu) for row in rows]),
            runtime=ints([RUNTIMES.index(row.runtime) for row in rows]),
            tp=ints([row.tensor_parallel_size for row in rows]),
            pp=ints([row.pipeline_parallel_size for row in rows]),
            replicas=ints([row.replicas for row in rows]),
            max_model_len=ints([row.max_model_len for row in rows]),
            max_num_seqs=ints([row.max_num_seqs for row in rows]),
            max_num_batched_tokens=ints([row.max_num_batched_tokens for row in rows]),
            gpu_memory_utilization=np.asarray([row.gpu_memory_utilization for row in rows]),
            quantization=ints([QUANTIZATIONS.index(row.quantization) for row in rows]),
            kv_dtype=ints([KV_DTYPES.index(row.kv_cache_dtype) for row in rows]),
        )

    def at(self, index: int) -> Configuration:
        return Configuration(
            gpu=self.gpus[int(self.gpu[index])],
            runtime=RUNTIMES[int(self.runtime[index])],
            tensor_parallel_size=int(self.tp[index]),
            pipeline_parallel_size=int(self.pp[index]),
            replicas=int(self.replicas[index]),
            max_model_len=int(self.max_model_len[index]),
            max_num_seqs=int(self.max_num_seqs[index]),
            max_num_batched_tokens=int(self.max_num_batched_tokens[index]),
            gpu_memory_utilization=float(self.gpu_memory_utilization[index]),
            quantization=QUANTIZATIONS[int(self.quantization[index])],
            kv_cache_dtype=KV_DTYPES[int(self.kv_dtype[index])],
        )

    def take(self, indices: Ints | Bools) -> Self:
        """The rows that an index array or a mask names."""
        columns = {
            item.name: getattr(self, item.name)[indices]
            for item in fields(self)
            if item.name != "gpus"
        }
        return type(self)(gpus=self.gpus, **columns)
