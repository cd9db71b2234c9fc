"""The search as Ray tasks, on a small cluster of this test's own."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import ray

from foundry.engines.budsim import packing
from foundry.engines.budsim.request import ClusterSpec, NodeGroup
from foundry.errors import InvalidRequest
from foundry.execution.workers.live_cluster import RayCluster, one_group_each
from foundry.execution.workers.search import RaySearcher
from foundry.infra.directory_store import DirectoryStore
from foundry.serving.recommendations import numerics, trained
from foundry.serving.recommendations.domain import Question
from foundry.serving.recommendations.learning import Learnt, TrainedModel
from foundry.serving.recommendations.schemas import Demand
from tests.serving.recommendations.questions import LLAMA, question

CLUSTER = {
    "groups": [
        {"gpu": "nvidia-l40s-48gb", "gpus_per_node": 4},
        {"gpu": "nvidia-a100-80gb", "gpus_per_node": 8},
    ]
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the tasks find the object store."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("home")
        patch.setenv("FOUNDRY_HOME", str(path))
        yield path


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def _question(**fields: object) -> Question:
    asked = question(cluster=CLUSTER, **fields)
    assert asked.cluster is not None
    demand = Demand(
        workload=asked.workload,
        cluster=asked.cluster,
        targets=asked.targets,
        policy=asked.policy,
        method=asked.method,
    )
    return Question(LLAMA, None, demand.request(), {"nvidia-l40s-48gb": 1.5})


@pytest.mark.ray
async def test_tasks_find_what_one_process_finds(cluster: None) -> None:
    asked = _question(targets={"max_tpot_ms": 60})
    found = await RaySearcher().recommend(asked)
    assert found == numerics.recommend(asked)
    assert found["feasible"] is True
    assert found["explanation"] is not None


@pytest.mark.ray
async def test_tasks_fetch_the_active_model_by_its_digest(cluster: None, home: Path) -> None:
    objects = DirectoryStore(home / "objects")
    shipped = Path(str(files("foundry.engines.budsim"))) / "models" / "1"
    learnt = Learnt(
        model=TrainedModel("2", await trained.keep_model(objects, packing.pack(shipped)))
    )
    asked = replace(_question(), learnt=learnt)
    found = await RaySearcher().recommend(asked)
    await trained.ensure_model(objects, learnt)
    assert found == numerics.recommend(asked)
    assert found["digests"]["model"] == learnt.model.name  # type: ignore[index,union-attr]


@pytest.mark.ray
async def test_a_cpu_node_is_measured(cluster: None) -> None:
    found = await RayCluster().probe_cpu()
    assert (found.id, found.verified) == ("cpu", True)
    assert 0.1 < found.bandwidth_gbps < 2000
    assert 0.001 < found.bf16_tflops < 100


@pytest.mark.ray
async def test_a_refusal_keeps_its_class_and_words(cluster: None) -> None:
    asked = _question()
    unknown = ClusterSpec((NodeGroup("nvidia-x100", 8),))
    wrong = replace(asked, request=replace(asked.request, cluster=unknown))
    with pytest.raises(InvalidRequest, match="nvidia-x100") as caught:
        await RaySearcher().recommend(wrong)
    assert caught.type is InvalidRequest


@pytest.mark.ray
async def test_the_cluster_describes_itself(cluster: None) -> None:
    found = await RayCluster().describe()
    assert [(group.gpu, group.nodes) for group in found.groups] == [("cpu", 1)]


def test_a_partly_used_kind_of_node_counts_once() -> None:
    whole, part = NodeGroup("nvidia-l4-24gb", 8, 2, 16), NodeGroup("nvidia-l4-24gb", 3, 1, 3)
    other = NodeGroup("nvidia-a10-24gb", 4)
    found = one_group_each(ClusterSpec((part, whole, other)))
    assert found.groups == (whole, other)
