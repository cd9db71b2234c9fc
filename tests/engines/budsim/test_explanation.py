"""Explanations: terms, memory, bottleneck, neighbours and what-if against hand values."""

import json
from dataclasses import replace

import pytest

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configuration
from foundry.engines.budsim.explanation import TPOT_TERMS, TTFT_TERMS, Explanation, explain, what_if
from foundry.engines.budsim.plot import series
from foundry.engines.budsim.request import ClusterSpec, NodeGroup, Request, Targets, Workload
from foundry.engines.budsim.search.evaluation import Evaluator
from foundry.engines.budsim.search.neighbours import neighbours
from foundry.engines.budsim.search.recommend import recommend
from foundry.errors import InvalidRequest
from tests.fakes.models import LLAMA_8B, LLAMA_70B
from tests.fakes.predictor import FakePredictor
from tests.fakes.questions import A100, CHAT, H100, L4

CATALOGUE = Catalogue.shipped()
REQUEST = Request(CHAT, ClusterSpec((H100, L4)), Targets(max_ttft_ms=800))
CONFIGURATION = Configuration(
    "nvidia-h100-80gb", max_model_len=2048, max_num_seqs=64, gpu_memory_utilization=0.9
)


def _explain(
    configuration: Configuration = CONFIGURATION,
    *,
    spec: ModelSpec = LLAMA_8B,
    request: Request = REQUEST,
    learnt: float = 1.0,
) -> Explanation:
    predictor = FakePredictor(learnt=learnt)
    return explain(spec, request, configuration, catalogue=CATALOGUE, predictor=predictor)


def test_terms_sum_to_the_prior_and_the_learnt_factor_is_apart() -> None:
    answer = _explain(learnt=1.7)
    for latency, names in ((answer.ttft, TTFT_TERMS), (answer.tpot, TPOT_TERMS)):
        assert tuple(latency.terms) == names
        assert sum(latency.terms.values()) == pytest.approx(latency.prior, abs=1e-9)
        assert latency.learnt == pytest.approx(1.7)
        assert latency.predicted == pytest.approx(1.7 * latency.prior)
    # 8.03e9 weights of two bytes at 0.7 of 3350 GB/s.
    assert answer.tpot.terms["weights"] == pytest.approx(16.06 / (3350 * 0.7) * 1e3)


def test_memory_sums_to_the_accelerator() -> None:
    memory = _explain().memory
    assert memory.total == pytest.approx(80e9)
    assert memory.free == pytest.approx(8e9)
    assert memory.weights == pytest.approx(16.06e9)
    assert memory.slots == int(memory.kv / (131_072 * 1200))


@pytest.mark.parametrize(
    ("changes", "users", "bottleneck"),
    [
        ({}, 8, "bandwidth"),
        ({"max_num_seqs": 8}, 512, "queue"),
        ({"gpu": "nvidia-l4-24gb", "max_num_seqs": 24}, 512, "memory capacity"),
        ({"gpu": "nvidia-l4-24gb", "tensor_parallel_size": 4}, 8, "bandwidth"),
    ],
)
def test_the_bottleneck(changes: dict[str, object], users: float, bottleneck: str) -> None:
    request = replace(REQUEST, workload=replace(CHAT, users=users))
    configuration = replace(CONFIGURATION, **changes)  # type: ignore[arg-type]
    assert _explain(configuration, request=request).bottleneck == bottleneck


def test_long_prompts_and_short_answers_are_bound_by_arithmetic() -> None:
    workload = replace(
        CHAT, input=replace(CHAT.input, mean=1900), output=replace(CHAT.output, mean=4)
    )
    answer = _explain(request=replace(REQUEST, workload=workload))
    assert answer.bottleneck == "compute"


def test_slack_and_binding_target() -> None:
    request = replace(REQUEST, targets=Targets(max_ttft_ms=800, max_cost_per_hour=2.4))
    answer = _explain(request=request)
    assert answer.binding == "max_cost_per_hour"
    assert answer.slacks["max_cost_per_hour"] == pytest.approx((2.4 - 2.29) / 2.4)


def test_neighbours_are_one_step_away_and_predicted_anew() -> None:
    request = replace(REQUEST, targets=Targets(max_ttft_ms=70))
    answer = recommend(LLAMA_8B, request, catalogue=CATALOGUE, predictor=FakePredictor())
    assert answer.choice is not None
    explanation = _explain(answer.choice.configuration, request=request)
    assert len(explanation.neighbours) == 2
    for one in explanation.neighbours:
        assert (
            replace(
                one.configuration, **{one.field: getattr(answer.choice.configuration, one.field)}
            )
            == answer.choice.configuration
        )
        assert str(getattr(one.configuration, one.field)) == one.value
        if one.missed is None:
            assert one.cost_change >= -1e-9
            assert one.amount == pytest.approx(one.cost_change)
        else:
            assert one.prediction.ttft_p95_ms.high == pytest.approx(70 * (1 + one.amount))


def test_a_cheaper_neighbour_says_which_target_it_misses() -> None:
    """Eight ranks are bought for the latency; four are cheaper but too slow."""
    wide = replace(CONFIGURATION, tensor_parallel_size=8, max_num_seqs=64)
    answer = _explain(wide, request=replace(REQUEST, targets=Targets(max_ttft_ms=10)))
    evaluator = Evaluator(
        LLAMA_8B,
        replace(REQUEST, targets=Targets(max_ttft_ms=10)),
        CATALOGUE,
        FakePredictor(),
    )
    fewer = next(
        one
        for one in neighbours(evaluator, wide, count=99)
        if (one.field, one.value) == ("tensor_parallel_size", "4")
    )
    assert (fewer.why, fewer.missed) == ("misses a target", "max_ttft_ms")
    assert fewer.cost_change < -0.2
    assert fewer.ttft_change == pytest.approx(0.9, abs=0.2)
    assert all(one.missed is None for one in answer.neighbours)


def test_the_text_is_made_of_the_numbers() -> None:
    answer = _explain(learnt=1.5)
    text = answer.text
    assert f"{answer.ttft.predicted:.1f} ms = {answer.ttft.prior:.1f} ms of physics" in text
    assert "times 1.50 learnt" in text
    assert "1 replica on nvidia-h100-80gb" in text
    assert "weights 16.1" in text
    assert "Bottleneck: compute." in text
    assert f"met with {answer.slacks['max_ttft_ms']:.0%} to spare" in text
    assert text.count("Rejected: ") == 2
    assert json.loads(json.dumps(answer.to_dict()))["text"] == text


def test_what_does_not_fit_is_not_explained() -> None:
    with pytest.raises(InvalidRequest, match="does not fit"):
        _explain(replace(CONFIGURATION, gpu="nvidia-l4-24gb"), spec=LLAMA_70B)


def test_what_if_more_users_other_accelerators_and_other_targets() -> None:
    predictor = FakePredictor()
    answer = recommend(LLAMA_8B, REQUEST, catalogue=CATALOGUE, predictor=predictor)
    assert answer.choice is not None
    old = answer.choice.prediction

    more = what_if(LLAMA_8B, REQUEST, answer, catalogue=CATALOGUE, predictor=predictor, users=512)
    assert more.throughput_tps is not None and more.throughput_tps > 0
    other = what_if(
        LLAMA_8B, REQUEST, answer, catalogue=CATALOGUE, predictor=predictor, gpu="nvidia-l4-24gb"
    )
    assert other.answer.choice is not None and other.cost_per_hour is not None
    assert other.answer.choice.configuration.gpu == "nvidia-l4-24gb"
    new = other.answer.choice.prediction
    assert other.cost_per_hour == pytest.approx(new.cost_per_hour - old.cost_per_hour)
    absent = what_if(
        LLAMA_8B, REQUEST, answer, catalogue=CATALOGUE, predictor=predictor, gpu=A100.gpu
    )
    assert absent.answer.choice is not None
    assert absent.answer.choice.configuration.gpu == "nvidia-a100-80gb"
    strict = what_if(
        LLAMA_8B,
        REQUEST,
        answer,
        catalogue=CATALOGUE,
        predictor=predictor,
        slo=Targets(max_ttft_ms=30),
    )
    assert strict.ttft_p95_ms is not None and strict.ttft_p95_ms < 0
    assert strict.cost_per_mtok is not None and strict.cost_per_mtok > 0
    with pytest.raises(InvalidRequest, match="give gpu, users or slo"):
        what_if(LLAMA_8B, REQUEST, answer, catalogue=CATALOGUE, predictor=predictor)


def test_an_endless_queue_is_the_bottleneck() -> None:
    """500 requests/s for one L4: no finite TTFT anywhere, and still an answer and its reason."""
    workload = Workload(CHAT.input, CHAT.output, rate=500.0)
    one = NodeGroup("nvidia-l4-24gb", 1)
    request = Request(workload, ClusterSpec((one,)), Targets(max_latency_ms=9, percentile="p99"))
    predictor = FakePredictor()
    answer = recommend(LLAMA_8B, request, catalogue=CATALOGUE, predictor=predictor)
    assert not answer.feasible and answer.overloaded and answer.choice is not None
    assert [target.relaxed for target in answer.targets] == [None]
    json.dumps(answer.to_dict(), allow_nan=False)
    configuration = replace(answer.choice.configuration, max_num_seqs=8)
    explanation = _explain(configuration, request=request)
    assert explanation.bottleneck == "queue"
    assert explanation.ttft.learnt == 1.0
    with pytest.raises(InvalidRequest, match="endless"):
        series(answer)
