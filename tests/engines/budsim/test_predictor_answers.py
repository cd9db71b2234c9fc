"""Predictions: what a change of the question changes."""

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configuration, Configurations
from foundry.engines.budsim.prediction import NOVELTIES
from foundry.engines.budsim.predictor import Predictor, predict
from foundry.engines.budsim.request import (
    ClusterSpec,
    Lengths,
    Method,
    NodeGroup,
    Workload,
)
from tests.engines.budsim.serving_cases import (
    CATALOGUE,
    MODELS,
    SHIPPED,
    ask,
    ask_one,
    assert_same,
    closed,
    rows,
)
from tests.fakes.models import DEEPSEEK, GPT_OSS, LLAMA_8B, LLAMA_70B, MIXTRAL

H100, H200 = "nvidia-h100-80gb", "nvidia-h200-141gb"
METHODS: tuple[Method, ...] = ("REGRESSOR", "PRIOR")


@pytest.mark.parametrize(
    ("spec", "gpu", "settings", "novelty", "confidence"),
    [
        (LLAMA_70B, H100, {"tensor_parallel_size": 8}, "seen family", "high"),
        (DEEPSEEK, "nvidia-b200-180gb", {"tensor_parallel_size": 8}, "seen family", "high"),
        (MIXTRAL, H100, {"tensor_parallel_size": 4}, "new model", "medium"),
        (LLAMA_70B, "amd-mi300x-192gb", {"tensor_parallel_size": 8}, "new GPU", "low"),
        (LLAMA_70B, "nvidia-l4-24gb", {"tensor_parallel_size": 8}, "new GPU", "low"),
        # Smaller than every measured model, and a pipeline: outside of what was measured.
        (LLAMA_8B, H100, {}, "new model", "low"),
        (LLAMA_70B, H100, {"pipeline_parallel_size": 2}, "seen family", "low"),
    ],
)
def test_what_was_not_measured_lowers_confidence(
    spec: ModelSpec, gpu: str, settings: dict[str, Any], novelty: str, confidence: str
) -> None:
    for users in (1, 32, 1024):
        found = ask_one(spec, Configuration(gpu, **settings), closed(users))
        assert (found.novelty, found.confidence) == (novelty, confidence)


def test_an_engine_or_a_pair_that_nobody_measured_lowers_confidence() -> None:
    seen = SHIPPED.artifact.seen
    shape = Configuration(H100, tensor_parallel_size=8)
    without_pair = replace(seen, pairs=seen.pairs - {(0, 0)})
    without_engine = replace(
        seen, pairs=frozenset((gpu, engine) for gpu, engine in seen.pairs if engine != 0)
    )
    for changed, novelty, confidence in (
        (without_pair, "new GPU and engine pair", "medium"),
        (without_engine, "new engine", "low"),
    ):
        predictor = Predictor(replace(SHIPPED.artifact, seen=changed))
        found = ask_one(LLAMA_70B, shape, closed(32), predictor=predictor)
        assert (found.novelty, found.confidence) == (novelty, confidence)
    assert ask_one(LLAMA_70B, shape, closed(32)).novelty == NOVELTIES[0]


def test_names_change_nothing() -> None:
    renamed = Catalogue(
        [replace(CATALOGUE.gpu(H100), id="x", name="y", aliases=(), vendor="z", source="")]
    )
    for method in METHODS:
        found = ask(LLAMA_70B, rows("x"), closed(20), catalogue=renamed, method=method)
        assert_same(found, 0, ask(LLAMA_70B, rows(H100), closed(20), method=method), 0)


def test_threads_get_what_one_would() -> None:
    shared = Predictor(SHIPPED.artifact)
    some = Configurations.of(
        [
            Configuration(H100, tensor_parallel_size=2**n, replicas=r)
            for n in range(4)
            for r in (1, 2)
        ]
    )
    questions = [
        (spec, closed(users)) for users in (4, 32, 256) for spec in (LLAMA_8B, GPT_OSS, MIXTRAL)
    ] * 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: ask(one[0], some, one[1], shared), questions))
    for (spec, workload), answer in zip(questions, found, strict=True):
        expected = ask(spec, some, workload)
        for index in range(len(some)):
            assert_same(answer, index, expected, index)


def test_prices_are_the_groups_then_the_catalogues() -> None:
    shape = Configuration(H100, tensor_parallel_size=4, pipeline_parallel_size=2, replicas=3)
    price = CATALOGUE.gpu(H100).price_per_hour
    assert price is not None
    assert ask_one(LLAMA_70B, shape, closed(8)).cost_per_hour == pytest.approx(price * 24)
    for name in (H100, CATALOGUE.gpu(H100).aliases[0]):
        groups = ClusterSpec((NodeGroup(name, 8, price_per_gpu_hour=1.5), NodeGroup(H200, 8)))
        found = ask_one(LLAMA_70B, shape, closed(8), groups=groups)
        assert found.cost_per_hour == pytest.approx(36.0)
        assert found.cost_per_mtok.point == pytest.approx(
            36.0 / 3600 / found.throughput_tps.point * 1e6
        )
    both = Configurations.of([shape, replace(shape, gpu=H200)])
    hourly = ask(LLAMA_70B, both, closed(8), groups=groups).cost_per_hour
    assert hourly[1] == pytest.approx((CATALOGUE.gpu(H200).price_per_hour or 0) * 24)


def test_an_unknown_price_has_no_cost() -> None:
    unpriced = CATALOGUE.with_gpu(replace(CATALOGUE.gpu(H100), price_per_hour=None))
    found = ask_one(LLAMA_70B, Configuration(H100), closed(8), catalogue=unpriced)
    assert np.isnan(found.cost_per_hour)
    assert np.isnan([found.cost_per_mtok.low, found.cost_per_mtok.point]).all()
    assert found.throughput_tps.point > 0


@pytest.mark.parametrize("spec", MODELS)
@pytest.mark.parametrize("gpu", [H100, "nvidia-l4-24gb", "nvidia-b200-180gb"])
def test_a_shared_prefix_lowers_the_first_token(spec: ModelSpec, gpu: str) -> None:
    shape = Configuration(gpu, tensor_parallel_size=8)
    for method in METHODS:
        none, most = (
            ask_one(
                spec, shape, closed(32, 8192, 256, share=share), method=method
            ).ttft_p95_ms.point
            for share in (0.0, 0.9)
        )
        assert most < none, method


@pytest.mark.parametrize("spec", MODELS)
def test_a_small_chunk_delays_a_long_prompt(spec: ModelSpec) -> None:
    found = [
        ask_one(
            spec,
            Configuration(H100, tensor_parallel_size=8, max_num_batched_tokens=chunk),
            closed(1, 16384, 128),
        ).ttft_p50_ms.point
        for chunk in (512, 1024, 2048, 4096, 8192, 16384)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.05 * found[-1]


def test_fits_needs_one_sequence_of_max_model_len() -> None:
    def fits(spec: ModelSpec, length: int, **settings: Any) -> bool:
        shape = Configuration(H100, max_model_len=length, **settings)
        return ask_one(spec, shape, closed(8)).fits

    # 53.2 GB are free; a token takes 131,072 bytes.
    assert fits(LLAMA_8B, 405_000)
    assert not fits(LLAMA_8B, 406_500)
    assert not fits(LLAMA_70B, 1024)
    assert fits(LLAMA_70B, 8192, tensor_parallel_size=4)


def test_a_state_is_not_multiplied_by_max_model_len() -> None:
    """A recurrent model holds 1 GB per sequence of any length."""
    spec = replace(LLAMA_8B, full_layers=0, state_bytes=1e9)
    shape = Configuration(H100, max_model_len=1 << 20)
    assert ask_one(spec, shape, closed(8, 512, 512)).fits
    windows = replace(GPT_OSS, full_layers=0, sliding_layers=36, window=1 << 16)
    shape = Configuration(H100, max_model_len=1 << 24, tensor_parallel_size=4)
    assert ask_one(windows, shape, closed(8, 512, 512)).fits


def test_one_question_is_one_row() -> None:
    shape = Configuration(H200, tensor_parallel_size=4)
    found = predict(LLAMA_70B, CATALOGUE, shape, closed(16), confidence=0.8)
    assert found == ask_one(LLAMA_70B, shape, closed(16), confidence=0.8)


def test_a_predictor_travels_without_its_curves() -> None:
    copy = pickle.loads(pickle.dumps(SHIPPED))
    assert copy.version == SHIPPED.version == "1"
    assert copy.artifact.digest == SHIPPED.artifact.digest
    assert_same(
        ask(GPT_OSS, rows(H100), closed(8), copy), 0, ask(GPT_OSS, rows(H100), closed(8)), 0
    )
    assert Predictor.shipped() is SHIPPED


def test_latency_is_a_first_token_and_its_gaps() -> None:
    workload = Workload(Lengths.of(1024), Lengths(200, 100, 501), users=16)
    found = ask_one(LLAMA_70B, Configuration(H200, tensor_parallel_size=4), workload)
    for end in ("low", "point", "high"):
        first, gap = getattr(found.ttft_p95_ms, end), getattr(found.tpot_ms, end)
        assert getattr(found.latency_p95_ms, end) == pytest.approx(first + 500 * gap)


def test_one_output_token_has_no_gap() -> None:
    found = ask_one(LLAMA_70B, Configuration(H200), closed(4, 1024, 1))
    assert found.latency_p95_ms == found.ttft_p95_ms


def test_the_package_is_light_to_import() -> None:
    code = (
        "import sys, foundry.engines.budsim.predictor as p; "
        "print([n for n in ('xgboost', 'deap', 'matplotlib', 'scipy') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
