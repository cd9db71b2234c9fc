"""Hostile questions are refused with the field and what to do."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.request import ClusterSpec, Lengths, NodeGroup, Policy, Request, Targets
from foundry.engines.budsim.search.recommend import recommend
from foundry.engines.budsim.search.validation import model_length, validate
from foundry.errors import InvalidRequest
from tests.fakes.models import LLAMA_8B
from tests.fakes.predictor import FakePredictor
from tests.fakes.questions import CHAT, H100

CATALOGUE = Catalogue.shipped()
GOOD = Request(CHAT, ClusterSpec((H100,)))


def _workload(**changes: Any) -> Request:
    return replace(GOOD, workload=replace(CHAT, **changes))


def _group(**changes: Any) -> Request:
    return replace(GOOD, cluster=ClusterSpec((replace(H100, **changes),)))


def _targets(**values: Any) -> Request:
    return replace(GOOD, targets=Targets(**values))


def _policy(**values: Any) -> Request:
    return replace(GOOD, policy=Policy(**values))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: replace(GOOD, cluster=ClusterSpec(())), "give at least one node group"),
        (lambda: replace(GOOD, cluster=ClusterSpec((H100, H100))), "merge them into one group"),
        (
            lambda: replace(
                GOOD,
                cluster=ClusterSpec((H100, replace(H100, gpus_per_node=4, price_per_gpu_hour=9))),
            ),
            "several prices or networks",
        ),
        (lambda: _group(free_gpus=0), "no accelerator is free"),
        (lambda: _group(free_gpus=-1), "give 0 or more"),
        (lambda: _group(nodes=0), "give at least 1"),
        (lambda: _group(gpus_per_node=0), "give at least 1"),
        (lambda: _group(gpu="nvidia-h999"), "nvidia-h999"),
        (lambda: _group(price_per_gpu_hour=math.nan), "give a positive number"),
        (lambda: _group(network_gbps=0.0), "give a positive number"),
        (lambda: _targets(max_ttft_ms=0.0), r"targets.max_ttft_ms is 0.0"),
        (lambda: _targets(max_tpot_ms=-1.0), "give a positive number"),
        (lambda: _targets(max_cost_per_hour=math.nan), "leave it out for no bound"),
        (lambda: _targets(min_throughput_tps=math.inf), "leave it out"),
        (lambda: _workload(users=0), "workload.users is 0"),
        (lambda: _workload(users=None), "either users or rate"),
        (lambda: _workload(rate=1.0), "either users or rate"),
        (lambda: _workload(users=None, rate=-2.0), "workload.rate is -2.0"),
        (lambda: _workload(prefix_share=1.0), "a share from 0 to below 1"),
        (lambda: _workload(arrival_scv=math.nan), "workload.arrival_scv is nan"),
        (lambda: _workload(output=Lengths.of(0)), "give at least 1 token"),
        (lambda: _workload(output=Lengths(9, 9, 5)), "give p50 ≤ p95"),
        (lambda: _workload(input=Lengths.of(1e9)), "exceed the model's 8192"),
        (lambda: _policy(runtimes=()), "policy.runtimes"),
        (lambda: _policy(runtimes=("ollama",)), "vllm, sglang, tensorrt-llm"),
        (lambda: _policy(quantizations=("fp8", "fp8")), "each once"),
        (lambda: _policy(min_replicas=3, max_replicas=2), "min_replicas ≤ max_replicas"),
        (lambda: _policy(confidence=1.0), "give 0.5 to 0.99"),
        (lambda: _policy(memory_headroom=0.9), "best 0.1 to 0.2"),
        (lambda: _policy(max_model_len=100), "give 1200"),
        (lambda: _policy(max_model_len=9000), "8192"),
    ],
)
def test_hostile_questions(make: Callable[[], Request], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        recommend(LLAMA_8B, make(), catalogue=CATALOGUE, predictor=FakePredictor())


def test_a_gpu_without_price_asks_for_one() -> None:
    unpriced = next(id for id in CATALOGUE.ids if CATALOGUE.gpu(id).price_per_hour is None)
    request = replace(GOOD, cluster=ClusterSpec((NodeGroup(unpriced, 8),)))
    with pytest.raises(InvalidRequest, match="set price_per_gpu_hour"):
        validate(LLAMA_8B, request, CATALOGUE)
    priced = replace(GOOD, cluster=ClusterSpec((NodeGroup(unpriced, 8, price_per_gpu_hour=1.0),)))
    assert validate(LLAMA_8B, priced, CATALOGUE) == 2048


def test_the_length_is_the_power_of_two_that_holds_the_workload() -> None:
    assert model_length(LLAMA_8B, CHAT, None) == 2048
    assert model_length(LLAMA_8B, replace(CHAT, output=Lengths.of(24)), None) == 1024
    assert model_length(LLAMA_8B, replace(CHAT, input=Lengths.of(7000)), None) == 8192
    assert model_length(replace(LLAMA_8B, max_length=1500), CHAT, None) == 1500
    assert model_length(LLAMA_8B, CHAT, 1200) == 1200
