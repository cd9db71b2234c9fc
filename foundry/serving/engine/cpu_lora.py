"""LoRA on CPUs at the cost of a few small matrix products.

vLLM's own CPU path gathers a copy of both weights for every token, which made an adapter's answers
four times slower than its base's, and in a batch with adapters it applies the last slot's to the
base's tokens. Here the tokens of one adapter share one product, and the base's take part in none.
"""

from typing import TYPE_CHECKING, Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

if TYPE_CHECKING:
    from vllm.lora.layers import LoRAMapping

Rows = slice | torch.Tensor


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]
    """Adapters of a batch, each applied to its own rows at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._groups: list[tuple[int, Rows]] = []

    def update_metadata(
        self,
        mapping: "LoRAMapping",
        lora_index_to_id: list[int | None],
        max_loras: int,
        vocab_size: int,
        **kwargs: Any,
    ) -> None:
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._groups = group_rows(self.token_lora_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        """Add scale · x Aᵀ Bᵀ to each slice of y, with every row's own adapter.

        Args:
            y: (tokens, sum of output_slices), changed in place.
            x: (tokens, d_in).
            lora_a_stacked: per slice (slots, 1, rank, d_in).
            lora_b_stacked: per slice (slots, 1, size of the slice, rank).
        """
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, rows in self._groups:
            offset = 0
            taken = x[rows]
            for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                delta = (taken @ a[slot, 0].T) @ b[slot, 0].T
                y[rows, offset : offset + size] += delta * scale
                offset += size


def group_rows(slots: torch.Tensor) -> list[tuple[int, Rows]]:
    """(slot, its rows) for every adapter among a batch's tokens; -1 is the base alone."""
    groups: list[tuple[int, Rows]] = []
    for slot in torch.unique(slots).tolist():
        if slot < 0:
            continue
        rows = torch.nonzero(slots == slot).flatten()
        first, last = int(rows[0]), int(rows[-1]) + 1
        groups.append((slot, slice(first, last) if last - first == len(rows) else rows))
    return groups
