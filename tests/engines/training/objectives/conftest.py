"""Batches of two segments whose numbers are easy to follow."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from foundry.engines.training.packing import Batch

MakeBatch = Callable[..., Batch]


@pytest.fixture
def make_batch() -> MakeBatch:
    """Targets in segments of the given sizes; each target sits one place after its source."""

    def make(
        *sizes: int, weights: Tensor | None = None, columns: int | None = None, **values: Tensor
    ) -> Batch:
        total = sum(sizes)
        shape = (total,) if columns is None else (total, columns)
        return Batch(
            tokens_T=torch.zeros(total, dtype=torch.long),
            positions_T=torch.cat([torch.arange(size) for size in sizes]),
            segments=sizes,
            sources_N=torch.arange(total),
            targets_N=torch.zeros(shape, dtype=torch.long),
            weights_N=weights,
            values=values,
        )

    return make
