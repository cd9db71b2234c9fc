"""What a question may say, and what budsim's types make of it."""

import pytest
from pydantic import ValidationError

from foundry.engines.budsim.request import Lengths, NodeGroup
from foundry.serving.recommendations.domain import fingerprint
from foundry.serving.recommendations.schemas import Demand, RecommendationCreate
from tests.serving.recommendations.questions import LLAMA, body


def _demand(asked: RecommendationCreate) -> Demand:
    assert asked.cluster is not None
    return Demand(
        workload=asked.workload,
        cluster=asked.cluster,
        targets=asked.targets,
        policy=asked.policy,
        method=asked.method,
    )


def test_a_question_becomes_budsims_request_and_survives_storage() -> None:
    asked = RecommendationCreate.model_validate(
        body(
            targets={"max_ttft_ms": 500, "percentile": "p99"},
            policy={"runtimes": ["vllm", "sglang"], "min_replicas": 2},
        )
    )
    stored = Demand.model_validate_json(_demand(asked).model_dump_json())
    request = stored.request()
    assert request == _demand(asked).request()
    assert request.workload.input == Lengths(1024, 1024, 1024)
    assert request.cluster.groups == (NodeGroup("nvidia-l40s-48gb", 4),)
    assert (request.targets.max_ttft_ms, request.targets.percentile) == (500, "p99")
    assert request.policy.runtimes == ("vllm", "sglang")
    assert request.policy.objectives == ("cost", "ttft", "throughput")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "smol"}, "give model"),
        ({"config": None}, "give model"),
        ({"config": None, "model": "smol", "checkpoint_bytes": 5}, "checkpoint_bytes goes with"),
        ({"workload": {"input": {"mean": 1}, "output": {"mean": 1}}}, "give users"),
        ({"policy": {"min_replicas": 5, "max_replicas": 2}}, "min_replicas is above"),
        ({"cluster": {"groups": []}}, "at least 1 item"),
        ({"targets": {"max_ttft_ms": float("inf")}}, "finite number"),
        ({"targets": {"max_tftt_ms": 5}}, "Extra inputs"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RecommendationCreate.model_validate(body(**change))


def test_a_fingerprint_ignores_the_order_of_fields() -> None:
    assert fingerprint({"a": 1, "b": LLAMA}) == fingerprint({"b": LLAMA, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert fingerprint({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
