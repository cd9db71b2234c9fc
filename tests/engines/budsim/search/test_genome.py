"""Repair: idempotent, nearest, and never to anything that breaks a rule."""

import numpy as np
import pytest

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.request import (
    KV_DTYPES,
    QUANTIZATIONS,
    ClusterSpec,
    NodeGroup,
    Policy,
    Request,
)
from foundry.engines.budsim.search.genome import GENES, SEQUENCES, Island, Space, islands, space
from foundry.engines.budsim.search.rules import Ground, broken, memories, placements
from tests.fakes.models import LLAMA_8B, LLAMA_70B
from tests.fakes.questions import CHAT, H100, L4, MIXED, random_model, random_request

CATALOGUE = Catalogue.shipped()
GPUS = (*(group.gpu for group in MIXED.groups), "nvidia-t4-16gb", "nvidia-v100-32gb")


def _ground(spec: object, request: Request) -> Ground:
    workload = request.workload
    tokens = workload.input.mean + workload.output.mean
    return Ground(spec, CATALOGUE, request.cluster, tokens)  # type: ignore[arg-type]


def _space(spec: object, request: Request, length: int = 4096) -> Space:
    island = islands(request)[0]
    return space(_ground(spec, request), request, island, length)


def test_one_island_per_free_group_and_runtime() -> None:
    busy = NodeGroup("nvidia-a100-80gb", 8, 2, free_gpus=0)
    policy = Policy(runtimes=("vllm", "sglang"))
    request = Request(CHAT, ClusterSpec((busy, H100)), policy=policy)
    assert islands(request) == (
        Island("nvidia-h100-80gb", "vllm"),
        Island("nvidia-h100-80gb", "sglang"),
    )


def test_ten_thousand_random_models_never_leave_the_rules() -> None:
    """Random genomes of random questions: what repair returns fits, or nothing is returned."""
    rng = np.random.default_rng(7)
    tried = empty = 0
    while tried < 10_000:
        spec, request = random_model(rng), random_request(rng, GPUS)
        for island in islands(request):
            ground = _ground(spec, request)
            groups = [one for one in request.cluster.groups if one.gpu == island.gpu]
            room = space(ground, request, island, 2048)
            if room.empty:
                empty += 1
                continue
            genomes = rng.integers(-3, 120, size=(60, len(GENES)))
            fixed = room.repair(genomes)
            rows = room.decode(fixed)
            assert not any(rule.where.any() for rule in broken(ground, rows))
            longest, typical = memories(ground, rows)
            used = longest.weights + longest.activations + longest.communication
            assert (used + longest.kv_per_sequence <= longest.limit * (1 + 1e-9)).all()
            assert (rows.max_num_seqs <= np.maximum(typical.slots, 1)).all()
            assert (rows.tp * rows.pp * rows.replicas <= groups[0].available_gpus).all()
            assert (rows.replicas >= request.policy.min_replicas).all()
            assert (rows.gpu_memory_utilization <= 1 - request.policy.memory_headroom + 1e-9).all()
            assert (room.repair(fixed) == fixed).all()
            tried += len(genomes)
    assert empty > 10  # the property would be empty if everything fitted


def test_what_obeys_the_rules_is_left_alone() -> None:
    room = _space(LLAMA_8B, Request(CHAT, ClusterSpec((H100,))))
    genomes = room.everything()
    assert (room.repair(genomes) == genomes).all()
    assert len(np.unique(room.keys(genomes))) == len(genomes) == room.count()


def test_too_little_memory_moves_to_the_nearest_sharding() -> None:
    """70B in bf16, 141 GB, does not fit one or two 80 GB accelerators, so tp 1 becomes tp 4, which
    is nearer than two stages of two ranks."""
    room = _space(LLAMA_70B, Request(CHAT, ClusterSpec((H100,))))
    genome = np.zeros((1, len(GENES)), dtype=np.int64)
    genome[0, 4] = 2
    rows = room.decode(room.repair(genome))
    assert (rows.tp[0], rows.pp[0]) == (4, 1)
    assert rows.gpu_memory_utilization[0] == 0.9


def test_formats_without_hardware_are_replaced() -> None:
    policy = Policy(quantizations=QUANTIZATIONS, kv_dtypes=KV_DTYPES)
    ampere = ClusterSpec((NodeGroup("nvidia-a100-80gb", 8),))
    room = _space(LLAMA_8B, Request(CHAT, ampere, policy=policy))
    rows = room.decode(room.everything())
    fp8 = QUANTIZATIONS.index("fp8")
    assert sorted(set(rows.quantization.tolist())) == [i for i in range(5) if i != fp8]
    assert set(rows.kv_dtype.tolist()) == {0}


def test_sequences_use_all_slots_and_no_more() -> None:
    room = _space(LLAMA_8B, Request(CHAT, ClusterSpec((L4,))))
    genomes = room.everything()
    slots, rows = room.slots[room.cells(genomes)], room.decode(genomes)
    most = genomes[:, -2] == np.searchsorted(SEQUENCES, np.minimum(slots, SEQUENCES[-1]))
    assert (rows.max_num_seqs[most] == np.minimum(slots, SEQUENCES[-1])[most]).all()
    assert (rows.max_num_seqs[~most] == np.asarray(SEQUENCES)[genomes[~most, -2]]).all()


@pytest.mark.parametrize(
    ("free", "tp", "pp", "replicas"),
    [
        (16, 8, 1, 2),
        (16, 8, 2, 1),
        (16, 4, 1, 4),
        (12, 8, 1, 1),
        (12, 4, 1, 3),
        (7, 8, 1, 0),
        (16, 16, 1, 0),
    ],
)
def test_ranks_of_a_stage_share_a_node(free: int, tp: int, pp: int, replicas: int) -> None:
    group = NodeGroup("nvidia-h100-80gb", 8, 2, free_gpus=free)
    assert placements([group], np.array([tp]), np.array([pp])).tolist() == [replicas]


def test_nodes_of_two_sizes_are_one_pool() -> None:
    """Stages of four ranks: two in the large node, one in the small one."""
    groups = [NodeGroup("nvidia-h100-80gb", 8), NodeGroup("nvidia-h100-80gb", 4)]
    assert placements(groups, np.array([4, 4, 8]), np.array([1, 3, 1])).tolist() == [3, 1, 1]
    request = Request(CHAT, ClusterSpec(tuple(groups)))
    assert len(islands(request)) == 1
    rows = _space(LLAMA_8B, request)
    assert int(rows.room.max()) == 12


def test_headroom_bounds_the_memory_that_is_used() -> None:
    request = Request(CHAT, ClusterSpec((H100,)), policy=Policy(memory_headroom=0.15))
    assert _space(LLAMA_8B, request).alleles[4].tolist() == [0.8, 0.85]
    request = Request(CHAT, ClusterSpec((H100,)), policy=Policy(memory_headroom=0.4))
    assert _space(LLAMA_8B, request).alleles[4].tolist() == [0.6]
