"""Which examples make up which optimiser step. A pure function of seed, epoch and lengths."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foundry.engines.training.config import SftConfig
from foundry.engines.training.packing import pack


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next batch: `index` counts batches inside the epoch."""

    epoch: int = 0
    index: int = 0


Item = tuple[int, ...]
"""Indices of the examples that form one sequence (one of them, unless packing)."""


class Sampler:
    """Epochs without replacement; the last batch of an epoch may be short."""

    def __init__(self, lengths: Sequence[int], config: SftConfig) -> None:
        self._lengths = lengths
        self._config = config
        self._planned: tuple[int, list[Item]] = (-1, [])
        self._sizes: dict[int, int] = {}

    def total_steps(self) -> int:
        if self._config.max_steps is not None:
            return self._config.max_steps
        return sum(self._batches(epoch) for epoch in range(self._config.num_epochs))

    def batch(self, cursor: Cursor) -> tuple[list[Item], Cursor]:
        """The items of one optimiser step, and where the next one starts."""
        size = self._config.batch_size
        items = self._plan(cursor.epoch)[cursor.index * size : (cursor.index + 1) * size]
        if cursor.index + 1 < self._batches(cursor.epoch):
            return items, Cursor(cursor.epoch, cursor.index + 1)
        return items, Cursor(cursor.epoch + 1, 0)

    def items(self, number: int) -> list[Item]:
        """The items of batch `number`, counted over the epochs."""
        cursor = Cursor()
        while number >= (size := self._batches(cursor.epoch)):
            number, cursor = number - size, Cursor(cursor.epoch + 1)
        return self.batch(Cursor(cursor.epoch, number))[0]

    def _batches(self, epoch: int) -> int:
        if epoch not in self._sizes:
            self._sizes[epoch] = -(-len(self._plan(epoch)) // self._config.batch_size)
        return self._sizes[epoch]

    def _plan(self, epoch: int) -> list[Item]:
        if self._planned[0] != epoch:
            self._planned = (epoch, self._shuffle(epoch))
        return self._planned[1]

    def _shuffle(self, epoch: int) -> list[Item]:
        random = np.random.Generator(np.random.PCG64([self._config.seed, epoch]))
        order = random.permutation(len(self._lengths)).tolist()
        if not self._config.packing:
            return [(index,) for index in order]
        packs = pack([self._lengths[index] for index in order], self._config.max_seq_len)
        # First-fit-decreasing leaves the fullest packs first; shuffling undoes that bias.
        return [tuple(order[i] for i in packs[p]) for p in random.permutation(len(packs))]
