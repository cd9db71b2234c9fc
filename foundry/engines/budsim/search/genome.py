"""Genomes: configurations as indices into short lists, one space per island.

An island is one kind of accelerator with one runtime. Its first six genes make a *cell*, which
decides whether and how often a replica fits; the last two, sequences and replicas, are bounded by
it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Bools, Configurations, Floats, Ints
from foundry.engines.budsim.request import (
    KV_DTYPES,
    QUANTIZATIONS,
    RUNTIMES,
    NodeGroup,
    Request,
    Runtime,
)
from foundry.engines.budsim.search.rules import Ground, memories, placements, valid

GENES = (
    "tp",
    "pp",
    "quantization",
    "kv_dtype",
    "gpu_memory_utilization",
    "max_num_batched_tokens",
    "max_num_seqs",
    "replicas",
)
CELL = 6
TP = (1, 2, 4, 8, 16)
PP = (1, 2, 4, 8)
UTILIZATION = (0.8, 0.85, 0.9)
BATCHED_TOKENS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
SEQUENCES = (8, 16, 32, 64, 128, 256, 512, 1024)

# What a repair step along each cell gene costs: it changes first what the asker notices least.
_STEP = (8.0, 16.0, 64.0, 32.0, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Island:
    """`gpu` is a catalogue id."""

    gpu: str
    runtime: Runtime


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """All genomes of an island and what repairs them.

    Attributes:
        alleles: values per cell gene; categories are indices as in `Configurations`.
        home: (cells,), the nearest cell that obeys every rule; -1: the island has none.
        slots: (cells,), sequences of the workload that fit at once.
        room: (cells,), replicas that fit.
        min_replicas: that the policy asks for.
    """

    island: Island
    max_model_len: int
    alleles: tuple[Floats, ...]
    home: Ints
    slots: Ints
    room: Ints
    min_replicas: int

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(values) for values in self.alleles)

    @property
    def empty(self) -> bool:
        return bool(self.home[0] < 0)

    @property
    def sizes(self) -> Ints:
        """Alleles of every gene; (genes,)."""
        return np.asarray([*self.shape, len(SEQUENCES), int(self.room.max())])

    def cells(self, genomes: Ints) -> Ints:
        """Index of each genome's cell; (N,)."""
        index: Ints = np.ravel_multi_index(tuple(genomes[:, :CELL].T), self.shape)
        return index

    def repair(self, genomes: Ints) -> Ints:
        """The nearest genomes that obey every rule: (N, genes) → (N, genes), idempotent.

        The cell moves to its home. Sequences come down to the first allele that uses all slots,
        replicas into what the policy and the group allow.
        """
        clipped = np.clip(genomes, 0, self.sizes - 1)
        cells = self.home[self.cells(clipped)]
        fixed = np.empty_like(clipped)
        fixed[:, :CELL] = np.stack(np.unravel_index(cells, self.shape), axis=1)
        most = np.searchsorted(SEQUENCES, np.minimum(self.slots[cells], SEQUENCES[-1]))
        fixed[:, -2] = np.minimum(clipped[:, -2], most)
        fixed[:, -1] = np.clip(clipped[:, -1], self.min_replicas - 1, self.room[cells] - 1)
        return fixed

    def keys(self, genomes: Ints) -> Ints:
        """One number per genome; (N,)."""
        number: Ints = np.ravel_multi_index(tuple(genomes.T), tuple(self.sizes))
        return number

    def draft(self) -> Configurations:
        """Every cell, whether it obeys the rules or not, with one sequence and the policy's fewest
        replicas."""
        n = len(self.home)
        genes = np.stack(np.unravel_index(np.arange(n), self.shape), axis=1)
        replicas = np.full(n, self.min_replicas)
        return _configurations(self, genes, sequences=np.ones(n, dtype=np.int64), replicas=replicas)

    def decode(self, genomes: Ints) -> Configurations:
        """Repaired genomes as configurations."""
        cells = self.cells(genomes)
        sequences = np.minimum(np.asarray(SEQUENCES)[genomes[:, -2]], self.slots[cells])
        return _configurations(
            self, genomes[:, :CELL], sequences=sequences, replicas=genomes[:, -1] + 1
        )

    def everything(self) -> Ints:
        """Every repaired genome once; (N, genes)."""
        cells = np.flatnonzero(self.home == np.arange(len(self.home)))
        most = np.searchsorted(SEQUENCES, np.minimum(self.slots[cells], SEQUENCES[-1])) + 1
        counts = self.room[cells] - self.min_replicas + 1
        rows = np.repeat(np.arange(len(cells)), most * counts)
        within = np.arange(len(rows)) - np.repeat(
            np.cumsum(most * counts) - most * counts, most * counts
        )
        genes = np.stack(np.unravel_index(cells[rows], self.shape), axis=1)
        sequences, replicas = np.divmod(within, counts[rows])
        return np.column_stack([genes, sequences, replicas + self.min_replicas - 1]).astype(
            np.int64
        )

    def count(self) -> int:
        """Repaired genomes."""
        cells = np.flatnonzero(self.home == np.arange(len(self.home)))
        most = np.searchsorted(SEQUENCES, np.minimum(self.slots[cells], SEQUENCES[-1])) + 1
        return int((most * (self.room[cells] - self.min_replicas + 1)).sum())


def _configurations(
    space: Space, genes: Ints, *, sequences: Ints, replicas: Ints
) -> Configurations:
    n = len(genes)
    tp, pp, quantization, kv_dtype, utilization, batched = (
        values[genes[:, index]] for index, values in enumerate(space.alleles)
    )

    def ints(values: Floats) -> Ints:
        return values.astype(np.int64)

    return Configurations(
        gpus=(space.island.gpu,),
        gpu=np.zeros(n, dtype=np.int64),
        runtime=np.full(n, RUNTIMES.index(space.island.runtime)),
        tp=ints(tp),
        pp=ints(pp),
        replicas=replicas.astype(np.int64),
        max_model_len=np.full(n, space.max_model_len),
        max_num_seqs=sequences.astype(np.int64),
        max_num_batched_tokens=ints(batched),
        gpu_memory_utilization=utilization,
        quantization=ints(quantization),
        kv_dtype=ints(kv_dtype),
    )


def islands(request: Request) -> tuple[Island, ...]:
    """One per runtime and kind of accelerator of which some are free."""
    free = (group.gpu for group in request.cluster.groups if group.available_gpus > 0)
    kinds = dict.fromkeys(free)
    return tuple(Island(gpu, runtime) for gpu in kinds for runtime in request.policy.runtimes)


def _alleles(request: Request) -> tuple[Floats, ...]:
    policy = request.policy
    limit = 1.0 - policy.memory_headroom
    utilization = [value for value in UTILIZATION if value <= limit + 1e-9] or [limit]
    values = (
        TP,
        PP,
        [QUANTIZATIONS.index(value) for value in policy.quantizations],
        [KV_DTYPES.index(value) for value in policy.kv_dtypes],
        utilization,
        BATCHED_TOKENS,
    )
    return tuple(np.asarray(column, dtype=np.float64) for column in values)


def space(ground: Ground, request: Request, island: Island, max_model_len: int) -> Space:
    """The island's space; every cell is tried once against the rules, with one sequence and the
    policy's fewest replicas. Accelerators without a price have no cells: nothing could be said of
    their cost.
    """
    groups = [group for group in request.cluster.groups if group.gpu == island.gpu]
    alleles = _alleles(request)
    shape = tuple(len(values) for values in alleles)
    n = int(np.prod(shape))
    empty = np.zeros(n, dtype=np.int64)
    draft = Space(island, max_model_len, alleles, empty, empty, empty, request.policy.min_replicas)
    rows = draft.draft()
    good = valid(ground, rows) & priced(groups, ground.catalogue)
    _, typical = memories(ground, rows)
    return Space(
        island=island,
        max_model_len=max_model_len,
        alleles=alleles,
        home=_nearest(good.reshape(shape)),
        # Every running sequence takes a token of each step, so the batch bounds sequences too.
        slots=np.minimum(np.maximum(typical.slots, 1), rows.max_num_batched_tokens),
        room=np.minimum(placements(groups, rows.tp, rows.pp), request.policy.max_replicas),
        min_replicas=draft.min_replicas,
    )


def priced(groups: Sequence[NodeGroup], catalogue: Catalogue) -> bool:
    """Someone knows what an hour of each costs."""
    known = [group.price_per_gpu_hour is not None for group in groups]
    return all(known) or catalogue.gpu(groups[0].gpu).price_per_hour is not None


def _nearest(good: Bools) -> Ints:
    """Index of the nearest good cell for every cell, by weighted city-block distance; -1: none.

    Separable distance transform (Rosenfeld & Pfaltz 1966): one pass up and one down each axis.
    """
    index = np.where(good, np.arange(good.size).reshape(good.shape), -1)
    distance = np.where(good, 0.0, np.inf)
    for axis, step in enumerate(_STEP):
        near, far = np.moveaxis(index, axis, 0), np.moveaxis(distance, axis, 0)
        last = len(near) - 1
        hops = [(i, i + 1) for i in range(last)] + [(i, i - 1) for i in range(last, 0, -1)]
        for source, target in hops:
            closer = far[source] + step < far[target]
            far[target] = np.where(closer, far[source] + step, far[target])
            near[target] = np.where(closer, near[source], near[target])
    return index.ravel().astype(np.int64)
