"""Keys and values of sequences that grow by a token at a time.

Shapes: B sequences, T tokens of a stream, Q query heads, K key heads, C capacity, J filled part, D
head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from foundry.engines.training.decoder.attention import attend
from foundry.engines.training.decoder.config import DecoderConfig


class KVCache:
    """Filled by one pass over whole prompts, then extended by one token per sequence and pass.

    Args:
        rows: sequences.
        capacity: tokens that each may reach.
    """

    def __init__(
        self,
        config: DecoderConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, capacity)
        self._keys = torch.zeros(*shape, config.head_dim, dtype=dtype, device=device)
        self._values = torch.zeros_like(self._keys)
        self.lengths = [0] * rows

    @property
    def capacity(self) -> int:
        """Tokens that each sequence may reach."""
        return self._keys.shape[3]

    def begin(self, segments: Sequence[int]) -> list[int]:
        """Announce the tokens of the next pass, some for each sequence. Returns the new lengths."""
        self._segments = segments
        self.lengths = [old + new for old, new in zip(self.lengths, segments, strict=True)]
        device = self._keys.device
        self._rows_T = torch.arange(len(segments), device=device).repeat_interleave(
            torch.tensor(segments, device=device)
        )
        return self.lengths

    def attend(
        self,
        layer: int,
        q_TQD: Tensor,
        k_TKD: Tensor,
        v_TKD: Tensor,
        positions_T: Tensor,
        *,
        window: int | None,
        softcap: float | None,
        scale: float,
    ) -> Tensor:
        """Store the keys and values of a pass, and attend to all that are there.

        Args:
            positions_T: of each token in its sequence.
        Returns:
            Shape (T, Q, D).
        """
        keys, values = self._keys[layer], self._values[layer]
        keys[self._rows_T, :, positions_T] = k_TKD
        values[self._rows_T, :, positions_T] = v_TKD
        if self.lengths == list(self._segments):
            return attend(
                q_TQD, k_TKD, v_TKD, self._segments, window=window, softcap=softcap, scale=scale
            )
        longest = max(self.lengths)
        back_BJ = positions_T.unsqueeze(-1) - torch.arange(longest, device=positions_T.device)
        visible_BJ = back_BJ >= 0 if window is None else (back_BJ >= 0) & (back_BJ < window)
        mixed = _attend_last(
            q_TQD.unsqueeze(2),
            keys[:, :, :longest],
            values[:, :, :longest],
            visible_BJ[:, None, None],
            softcap,
            scale,
        )
        return mixed.squeeze(2)

    def select(self, rows: Sequence[int], capacity: int) -> None:
        """Keep these sequences, in this order, each as often as it is named."""
        index = torch.tensor(rows, device=self._keys.device)
        filled = max(self.lengths)
        for name in ("_keys", "_values"):
            old = getattr(self, name)
            new = old.new_zeros(old.shape[0], len(rows), old.shape[2], capacity, old.shape[4])
            new[:, :, :, :filled] = old[:, :, :, :filled].index_select(1, index)
            setattr(self, name, new)
        self.lengths = [self.lengths[row] for row in rows]


def _attend_last(
    q_BQ1D: Tensor,
    k_BKJD: Tensor,
    v_BKJD: Tensor,
    visible_B11J: Tensor,
    softcap: float | None,
    scale: float,
) -> Tensor:
    if softcap is None:
        return functional.scaled_dot_product_attention(
            q_BQ1D, k_BKJD, v_BKJD, attn_mask=visible_B11J, scale=scale, enable_gqa=True
        )
    groups = q_BQ1D.shape[1] // k_BKJD.shape[1]
    keys, values = (x.repeat_interleave(groups, dim=1) for x in (k_BKJD, v_BKJD))
    scores = torch.tanh((q_BQ1D @ keys.mT).float() * (scale / softcap)) * softcap
    weights = scores.masked_fill(~visible_B11J, float("-inf")).softmax(-1)
    return weights.to(values.dtype) @ values
