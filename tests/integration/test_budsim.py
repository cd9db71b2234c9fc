"""budsim against the running engine: it asks, measures, learns, and is then right."""

import json

import pytest

from tests.integration.conftest import Stack

pytestmark = [pytest.mark.ray, pytest.mark.engine]

_CLI = "foundry.cli.main"
_LOAD = ("--concurrency", "1,2,4", "--requests", "10", "--output-tokens", "24", "--json")


def test_the_answer_for_the_cluster_that_is_there(stack: Stack) -> None:
    """Ray tasks search it; the model's shape is read from the registry."""
    asked = stack.run(
        _CLI, "budsim", "recommend", "smollm2-135m", "--users", "2", "--slo", "ttft=60000", "--json"
    )
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    chosen = answer["choice"]["configuration"]
    assert (chosen["gpu"], chosen["tensor_parallel_size"]) == ("cpu", 1)
    assert answer["feasible"] is True


@pytest.mark.timeout(900)
@pytest.mark.long(reason="two load tests of three concurrencies each on a CPU engine")
def test_measured_latencies_lie_in_the_interval_after_calibration(stack: Stack) -> None:
    """Three concurrencies teach the factors; three more are judged by them."""
    for _ in range(2):
        tested = stack.run(_CLI, "budsim", "recalibrate", "smollm2-135m", *_LOAD, timeout_s=400)
        assert tested.returncode == 0, tested.stderr
    levels = json.loads(tested.stdout)["levels"]
    assert len(levels) == 3
    for level in levels:
        for metric in ("ttft_p50_ms", "tpot_ms"):
            low, _, high = level["predicted"][metric]
            assert low <= level["actual"][metric] <= high, (metric, level)
