"""Bytes of an accelerator against hand values."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.memory import memory_map, nominal, sequence_bytes, weight_bytes
from tests.engines.budsim.serving_cases import MODELS, rows
from tests.fakes.models import DEEPSEEK, GPT_OSS, LLAMA_8B, LLAMA_70B

CATALOGUE = Catalogue.shipped()
GIB = 2.0**30
KV_TOKEN = 131_072


def test_an_h100_with_llama_3_8b_by_hand() -> None:
    found = memory_map(LLAMA_8B, CATALOGUE, rows(), 2048)
    assert found.limit[0] == pytest.approx(72e9)
    assert found.weights[0] == pytest.approx(16.06e9)
    assert found.activations[0] == pytest.approx(2.3 * GIB)
    assert found.communication[0] == pytest.approx(0.27 * GIB)
    assert found.free[0] == pytest.approx(72e9 - 16.06e9 - 2.57 * GIB)
    assert found.kv_per_sequence[0] == 2048 * KV_TOKEN
    assert found.slots[0] == 198


@pytest.mark.parametrize(("tp", "shards"), [(1, 1), (4, 4), (8, 8), (16, 8)])
def test_key_value_heads_are_replicated_beyond_their_number(tp: int, shards: int) -> None:
    found = sequence_bytes(LLAMA_8B, rows(tensor_parallel_size=tp), 100)
    assert found[0] == 100 * KV_TOKEN / shards


def test_tensor_parallel_ranks_share_weights_and_pay_for_collectives() -> None:
    found = memory_map(LLAMA_70B, CATALOGUE, rows(tensor_parallel_size=4), 2048)
    assert found.weights[0] == pytest.approx(70.55e9 * 2 / 4)
    assert found.communication[0] == pytest.approx(2.1 * GIB)


def test_a_pipeline_divides_weights_and_cache() -> None:
    one, two = (sequence_bytes(LLAMA_8B, rows(pipeline_parallel_size=n), 64)[0] for n in (1, 2))
    assert one == 2 * two == 64 * KV_TOKEN
    found = memory_map(LLAMA_8B, CATALOGUE, rows(pipeline_parallel_size=2), 64)
    assert found.weights[0] == pytest.approx(8.03e9)


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (8, 1), (8, 2)])
def test_a_latent_cache_is_whole_on_every_tensor_parallel_rank(tp: int, pp: int) -> None:
    shape = rows(tensor_parallel_size=tp, pipeline_parallel_size=pp)
    assert sequence_bytes(DEEPSEEK, shape, 10)[0] == pytest.approx(10 * 61 * 576 * 2 / pp)


def test_a_sliding_window_bounds_its_layers() -> None:
    full = 18 * 1024 * 2.0
    assert sequence_bytes(GPT_OSS, rows(), 100)[0] == 100 * full * 2
    assert sequence_bytes(GPT_OSS, rows(), 4096)[0] == (4096 + 128) * full


def test_a_recurrent_state_does_not_grow() -> None:
    spec = replace(LLAMA_8B, full_layers=8, state_bytes=5e6)
    at = [sequence_bytes(spec, rows(), tokens)[0] for tokens in (1000, 2000)]
    assert at[1] - at[0] == 1000 * 8 * 2048 * 2
    assert at[0] == 5e6 + 1000 * 8 * 2048 * 2


def test_an_fp8_cache_is_half_as_large() -> None:
    assert sequence_bytes(LLAMA_8B, rows(kv_cache_dtype="fp8"), 100)[0] == 50 * KV_TOKEN


def test_the_checkpoint_says_what_its_weights_weigh() -> None:
    stored = replace(LLAMA_8B, weight_format="int4", checkpoint_bytes=5_700_000_000)
    assert memory_map(stored, CATALOGUE, rows(), 1).weights[0] == pytest.approx(5.7e9)
    # Asking for fp8 does not widen 4 bit weights.
    assert weight_bytes(stored, rows(quantization="fp8"))[0] == pytest.approx(5.7 / 8.03)
    assert weight_bytes(LLAMA_8B, rows(quantization="fp8"))[0] == 1.0
    assert weight_bytes(LLAMA_8B, rows(quantization="int4"))[0] == 0.56


def test_a_width_near_a_format_is_that_format() -> None:
    widths = np.array([1.9998, 1.02, 0.5625, 4.0, 0.75, 1.5])
    assert nominal(widths).tolist() == [2.0, 1.0, 0.56, 4.0, 0.75, 1.5]


def test_activations_grow_with_the_step_and_the_vocabulary() -> None:
    wide = replace(LLAMA_8B, vocabulary=304_000)
    for spec, tokens, factor in (
        (LLAMA_8B, 16384, 2.0),
        (LLAMA_8B, 512, 0.25),
        (wide, 8192, 2.0),
    ):
        found = memory_map(spec, CATALOGUE, rows(max_num_batched_tokens=tokens), 1)
        assert found.activations[0] == pytest.approx(2.3 * GIB * factor)


def test_a_cpu_has_no_graphs_and_no_collectives() -> None:
    found = memory_map(LLAMA_8B, CATALOGUE, rows("cpu", max_num_batched_tokens=32768), 1)
    assert found.activations[0] == 0.5 * GIB
    assert found.communication[0] == 0.0


def test_weights_that_do_not_fit_leave_no_slot() -> None:
    found = memory_map(LLAMA_70B, CATALOGUE, rows(), 1)
    assert found.free[0] < 0
    assert found.slots[0] == 0


@pytest.mark.parametrize("tokens", [0.0, 1e-9, 1e18, 2.0**62])
def test_slots_stay_bounded_for_hostile_lengths(tokens: float) -> None:
    slots = int(memory_map(LLAMA_8B, CATALOGUE, rows(), tokens).slots[0])
    assert slots == (1 << 20 if tokens < 1 else 0)


@settings(max_examples=60, deadline=None)
@given(
    spec=st.sampled_from(MODELS),
    gpu=st.sampled_from(CATALOGUE.ids),
    tp=st.sampled_from([1, 2, 4, 8, 16]),
    pp=st.sampled_from([1, 2, 4]),
    share=st.floats(0.0, 1.0),
    tokens=st.floats(1.0, 1e6),
)
def test_the_account_closes(
    spec: ModelSpec, gpu: str, tp: int, pp: int, share: float, tokens: float
) -> None:
    shape = rows(
        gpu, tensor_parallel_size=tp, pipeline_parallel_size=pp, gpu_memory_utilization=share
    )
    found = memory_map(spec, CATALOGUE, shape, np.asarray([tokens]))
    spent = found.weights + found.activations + found.communication + found.free
    assert spent[0] == pytest.approx(found.limit[0], abs=1.0)
    assert found.slots[0] * found.kv_per_sequence[0] <= max(found.free[0], 0.0)
    if found.free[0] > 0 and found.slots[0] < 1 << 20:
        assert (found.slots[0] + 1) * found.kv_per_sequence[0] > found.free[0]
