"""What is asked for a deployment, and what it would miss."""

import pytest

from foundry.serving.outcomes.advising import _question, find_violations
from foundry.serving.outcomes.domain import Load
from foundry.serving.recommendations.schemas import TargetsIn

PREDICTED = {
    "ttft_p50_ms": (100.0, 200.0, 300.0),
    "ttft_p95_ms": (300.0, 600.0, 900.0),
    "tpot_ms": (30.0, 40.0, 50.0),
    "latency_p95_ms": (2000.0, 3000.0, 4000.0),
    "throughput_tps": (80.0, 100.0, 120.0),
}
LOAD = Load(7.84, 1023.4, 1010.0, 1999.0, 128.6, 100.0, 301.0)


@pytest.mark.parametrize(
    ("targets", "missed"),
    [
        ({"max_ttft_ms": 500}, ("max_ttft_ms",)),
        ({"max_ttft_ms": 500, "percentile": "p50"}, ()),
        ({"max_tpot_ms": 39, "max_latency_ms": 2999}, ("max_tpot_ms", "max_latency_ms")),
        ({"min_throughput_tps": 101}, ("min_throughput_tps",)),
        ({"min_throughput_tps": 99, "max_tpot_ms": 40, "max_cost_per_hour": 1}, ()),
    ],
)
def test_points_are_compared_with_targets(
    targets: dict[str, object], missed: tuple[str, ...]
) -> None:
    assert find_violations(TargetsIn.model_validate(targets), PREDICTED) == missed


def test_the_present_load_replaces_the_workload_that_was_planned() -> None:
    asked = {
        "method": "PRIOR",
        "workload": {"users": 64, "input": {"mean": 10}, "output": {"mean": 10}},
        "targets": {"max_ttft_ms": 500},
        "policy": {"min_replicas": 2},
        "cluster": {"groups": [{"gpu": "nvidia-l4-24gb", "gpus_per_node": 4}]},
    }
    found = _question("smol@0.1.0", asked, LOAD)
    # Two digits: loads that differ by less share an answer.
    assert (found.workload.users, found.workload.rate) == (7.8, None)
    assert (found.workload.input.mean, found.workload.input.p95) == (1000.0, 2000.0)
    assert (found.workload.output.mean, found.workload.output.p50) == (130.0, 100.0)
    assert (found.method, found.policy.min_replicas) == ("PRIOR", 2)
    assert found.targets.max_ttft_ms == 500
    planned = _question("smol@0.1.0", asked | {"method": "MANUAL"}, None)
    assert (planned.workload.users, planned.method) == (64, "REGRESSOR")
