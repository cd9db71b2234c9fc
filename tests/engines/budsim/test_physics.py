"""The roofline against hand values, and what must hold of it everywhere."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foundry.engines.budsim.physics import (
    ALPHA_S,
    free_memory,
    kv_per_token,
    prior,
    static_terms,
    step,
    touched,
)
from foundry.engines.budsim.points import Points
from tests.engines.budsim.serving_cases import MODELS, points, random_points
from tests.fakes.models import DEEPSEEK, LLAMA_8B, LLAMA_70B, MIXTRAL

NONE = np.zeros(1)
ONE = np.ones(1)


def test_llama_3_8b_caches_131072_bytes_per_token() -> None:
    assert kv_per_token(points())[0] == 131_072
    assert LLAMA_8B.kv_bytes_per_token() == 131_072


def test_the_cache_is_sharded_over_key_value_heads_and_stages() -> None:
    assert kv_per_token(points(tp=[2, 8, 16])).tolist() == [65_536, 16_384, 16_384]
    assert kv_per_token(points(pp=4.0, kb=1.0))[0] == 131_072 / 8


def test_a_latent_cache_is_replicated_over_tensor_parallel_ranks() -> None:
    assert kv_per_token(points(DEEPSEEK, tp=[1, 8])).tolist() == [70_272, 70_272]
    assert kv_per_token(points(DEEPSEEK, tp=8, pp=2))[0] == 35_136


def test_tokens_touch_experts_by_chance() -> None:
    some = points(MIXTRAL, batch=[1, 2, 3, 1e6])
    share = touched(some, np.asarray([1.0, 2.0, 3.0, 1e6])) / 45.1e9
    assert share == pytest.approx([1 / 4, 7 / 16, 37 / 64, 1.0])
    assert touched(points(), ONE)[0] == 0.0


def test_every_expert_visited_is_every_expert_read() -> None:
    everyone = replace(MIXTRAL, experts_per_token=8)
    assert touched(points(everyone), ONE)[0] == pytest.approx(45.1e9)


def test_one_decode_step_by_hand() -> None:
    found = step(points(), NONE, np.full(1, 16.0), np.full(1, 1280.0))
    multiplied = 8.03e9 - 0.525e9
    flops = 2 * multiplied * 16 + 4 * 32 * 32 * 128 * 16 * 1280
    assert found.compute[0] == pytest.approx(flops / 989e12)
    assert found.weights[0] == pytest.approx(2 * multiplied / 3350e9)
    assert found.kv[0] == pytest.approx(16 * 1280 * 131_072 / 3350e9)
    assert found.comm[0] == 0.0
    assert found.total[0] == pytest.approx(found.weights[0] + found.kv[0])


def test_a_mixture_reads_what_its_tokens_touch() -> None:
    found = step(points(MIXTRAL), NONE, np.full(1, 2.0), ONE)
    shared = 46.7e9 - 0.13e9 - 45.1e9
    assert found.weights[0] == pytest.approx(2 * (shared + 45.1e9 * 7 / 16) / 3350e9)
    assert found.compute[0] == pytest.approx(
        (2 * (12.9e9 - 0.13e9) * 2 + 4 * 32 * 32 * 128 * 2) / 989e12
    )


@pytest.mark.parametrize("spec", MODELS)
def test_one_rank_does_not_communicate(spec: object) -> None:
    found = prior(points(spec, batch=[1, 64, 512]))  # type: ignore[arg-type]
    for term in (found.mixed, found.decode, found.prefill, found.burst):
        assert term.comm.tolist() == [0.0, 0.0, 0.0]


def test_two_ranks_reduce_twice_a_layer() -> None:
    found = step(points(tp=2), NONE, np.full(1, 4.0), ONE)
    ring = 2 * (1 / 2) * 4 * 4096 * 2 / 450e9
    assert found.comm[0] == pytest.approx(2 * 32 * (ring + ALPHA_S))


def test_stages_hand_over_once() -> None:
    found = step(points(pp=2), NONE, np.full(1, 4.0), ONE)
    assert found.comm[0] == pytest.approx(4 * 4096 * 2 / 450e9 + ALPHA_S)


def _grows(some: Points) -> None:
    total = prior(some).mixed.total
    assert np.all(np.diff(total) >= -1e-12 * total[:-1])


@settings(max_examples=40, deadline=None)
@given(
    spec=st.sampled_from(MODELS),
    tp=st.sampled_from([1, 2, 8]),
    batch=st.floats(1, 512),
    input=st.floats(16, 16384),
    output=st.floats(1, 8192),
    wb=st.sampled_from([0.56, 1.0, 2.0]),
)
def test_tpot_grows_with_batch_and_input_and_as_bandwidth_falls(
    spec: object, tp: int, batch: float, input: float, output: float, wb: float
) -> None:
    at = {"tp": tp, "batch": batch, "input": input, "output": output, "wb": wb}
    factors = 2.0 ** np.arange(6)
    for changed in (
        {"batch": batch * factors},
        {"input": input * factors},
        {"bandwidth": 8e12 / factors},
    ):
        _grows(points(spec, **{**at, **changed}))  # type: ignore[arg-type]


def test_prefill_of_a_long_prompt_approaches_the_flops_bound() -> None:
    tokens = np.asarray([16.0, 512.0, 8192.0, 131_072.0])
    some = points(LLAMA_70B, tp=8, input=tokens, chunk=1e9)
    found = step(some, tokens, np.zeros(4), tokens)
    bound = (2 * 69.5e9 * tokens + 2 * 80 * 64 * 128 * tokens**2) / 8 / 989e12
    ratio = found.total / bound
    assert np.all(np.diff(ratio) < 0)
    # Reduces overlap with nothing, so they stay.
    assert ratio[-1] == pytest.approx(1 + found.comm[-1] / bound[-1])
    assert 1.0 <= ratio[-1] < 1.3
    alone = points(input=tokens, chunk=1e9)
    assert step(alone, tokens, np.zeros(4), tokens).total[-1] == pytest.approx(
        (2 * 7.505e9 * tokens[-1] + 2 * 32 * 32 * 128 * tokens[-1] ** 2) / 989e12
    )


@pytest.mark.parametrize("spec", MODELS)
@pytest.mark.parametrize("batch", [1.0, 8.0, 64.0])
def test_a_token_passes_every_stage(spec: object, batch: float) -> None:
    """Stages that each hold `batch` sequences answer no earlier than one stage would."""
    stages = np.asarray([1.0, 2.0, 4.0, 8.0])
    found = prior(points(spec, pp=stages, batch=batch * stages))  # type: ignore[arg-type]
    assert np.all(np.diff(found.decode.total) >= 0)
    assert np.all(np.diff(found.mixed.total) >= 0)
    assert np.all(np.diff(found.prefill.total) >= 0)


def test_chunks_of_a_prompt_overlap_in_a_pipeline() -> None:
    one, two = (
        prior(points(pp=pp, input=8192, chunk=2048, link=1e15)).prefill.total[0] for pp in (1, 2)
    )
    # Four chunks: four passes of the model alone, five half passes over two stages.
    assert two / one == pytest.approx(5 / 8, rel=1e-3)


def test_one_token_beyond_a_chunk_costs_another_pass_and_no_more() -> None:
    whole, longer = points(LLAMA_8B, input=8192.0), points(LLAMA_8B, input=8193.0)
    first, second = prior(whole).prefill, prior(longer).prefill
    assert second.compute[0] == pytest.approx(first.compute[0], rel=1e-3)
    assert second.weights[0] == pytest.approx(2.0 * first.weights[0])


def test_the_share_of_prefill_is_steady_and_capped() -> None:
    found = prior(points(batch=[8, 4096], input=1024, output=512))
    assert found.share.tolist() == [16.0, 8192.0]
    assert found.context.tolist() == [1280.0, 1280.0]
    assert prior(points(batch=8, input=1024, cached=768)).share[0] == 4.0


def test_pressure_is_the_load_over_free_memory() -> None:
    some = points(batch=32)
    free = 0.9 * 80e9 - 2 * 7.505e9 - 2.5e9
    assert free_memory(some)[0] == pytest.approx(free)
    assert prior(some).pressure[0] == pytest.approx(32 * 131_072 * 1536 / free)
    assert free_memory(points(LLAMA_70B))[0] == 1e8


def test_a_static_batch_prefills_at_once() -> None:
    prefill, decode = static_terms(points(batch=4, input=100, output=50))
    whole = step(points(input=100), np.full(1, 400.0), NONE, ONE)
    assert prefill.total[0] == whole.total[0]
    alone = step(points(), NONE, np.full(1, 4.0), np.full(1, 125.0))
    assert decode.total[0] == alone.total[0]


def test_every_term_is_finite_and_none_is_negative() -> None:
    found = prior(random_points(500))
    for term in (found.mixed, found.decode, found.prefill, found.burst):
        for column in (term.compute, term.weights, term.kv, term.comm):
            assert np.isfinite(column).all()
            assert column.min() >= 0.0
        assert term.total.min() > 0.0
