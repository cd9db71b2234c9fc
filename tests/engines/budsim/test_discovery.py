import re

import pytest

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.discovery import cluster_from_yaml, cluster_spec, discover
from foundry.engines.budsim.request import ClusterSpec, NodeGroup
from foundry.errors import InvalidRequest

CATALOGUE = Catalogue.shipped()


def node(
    name: str,
    *,
    alive: bool = True,
    labels: dict[str, str] | None = None,
    **resources: float,
) -> dict[str, object]:
    """As `ray.nodes()` gives it; `H100=1` stands for the resource `accelerator_type:H100`."""
    types = {
        f"accelerator_type:{key.replace('_', '-')}": resources.pop(key)
        for key in list(resources)
        if key not in ("CPU", "GPU", "HPU", "memory")
    }
    return {
        "NodeID": name,
        "Alive": alive,
        "NodeManagerAddress": "10.0.0.1",
        "Resources": {**resources, **types, f"node:{name}": 1.0},
        "Labels": labels or {},
    }


def test_equal_nodes_form_a_group() -> None:
    nodes = [
        node("a", CPU=96, GPU=8, H200=1),
        node("b", CPU=96, GPU=8, H200=1),
        node("c", CPU=48, GPU=4, L40S=1),
        node("d", CPU=16, memory=6e10),
        node("e", alive=False, CPU=96, GPU=8, H200=1),
    ]
    assert cluster_spec(nodes, CATALOGUE) == ClusterSpec(
        (
            # The platform's own services run beside an engine on CPUs.
            NodeGroup("cpu", 1, 1, 1, cores_per_node=8.0, memory_gb_per_node=60.0),
            NodeGroup("nvidia-h200-141gb", 8, 2, 16, cores_per_node=96.0),
            NodeGroup("nvidia-l40s-48gb", 4, 1, 4, cores_per_node=48.0),
        )
    )


def test_used_accelerators_are_not_planned_with() -> None:
    """Two nodes with four free each hold no group of eight."""
    nodes = [node(name, CPU=96, GPU=8, H200=1) for name in "abcd"]
    free = {"a": {"GPU": 4.0}, "b": {"GPU": 4.5}, "c": {"GPU": 8.0}, "d": {"CPU": 3.0}}
    assert cluster_spec(nodes, CATALOGUE, free=free).groups == (
        NodeGroup("nvidia-h200-141gb", 4, 2, 8, cores_per_node=96.0),
        NodeGroup("nvidia-h200-141gb", 8, 2, 8, cores_per_node=96.0),
    )


def test_of_equal_nodes_the_smallest_host_counts() -> None:
    nodes = [
        node("a", CPU=96, GPU=8, H200=1, memory=1.5004e12),
        node("b", CPU=64, GPU=8, H200=1, memory=2e12),
    ]
    (group,) = cluster_spec(nodes, CATALOGUE).groups
    assert (group.cores_per_node, group.memory_gb_per_node) == (64.0, 1500.0)


def test_cpu_nodes_are_free_while_half_of_their_cores_are() -> None:
    nodes = [node("a", CPU=8), node("b", CPU=8)]
    free = {"a": {"CPU": 4.0}, "b": {"CPU": 3.9}}
    assert cluster_spec(nodes, CATALOGUE, free=free).groups == (
        NodeGroup("cpu", 1, 2, 1, cores_per_node=4.0),
    )


def test_type_from_the_label() -> None:
    labels = {"ray.io/accelerator-type": "H200"}
    found = cluster_spec([node("a", CPU=8, GPU=2, labels=labels)], CATALOGUE)
    assert found.groups == (NodeGroup("nvidia-h200-141gb", 2, 1, 2, cores_per_node=8.0),)


def test_gaudi_is_counted_by_its_own_resource() -> None:
    labels = {"ray.io/accelerator-type": "Intel-GAUDI"}
    found = cluster_spec([node("a", CPU=8, HPU=8, labels=labels)], CATALOGUE)
    assert found.groups == (NodeGroup("intel-gaudi2-96gb", 8, 1, 8, cores_per_node=8.0),)


def test_the_more_specific_type_wins() -> None:
    found = discover([node("a", GPU=8, A100=1, A100_40G=1)], CATALOGUE)
    assert found.cluster.groups == (NodeGroup("nvidia-a100-40gb", 8, 1, 8),)
    assert found.warnings == ()


def test_ambiguous_types_are_told() -> None:
    found = discover([node("a", GPU=8, A100=1), node("b", GPU=8, A100=1)], CATALOGUE)
    assert found.cluster.groups == (NodeGroup("nvidia-a100-80gb", 8, 2, 16),)
    assert found.warnings == (
        "accelerator type A100 is read as nvidia-a100-80gb; if it is nvidia-a100-pcie-80gb, "
        "nvidia-a100-40gb, give the node the resource accelerator_type:<that id>",
    )


def test_unknown_accelerators_are_told() -> None:
    found = discover([node("node-a", GPU=8, XPU9000=1), node("node-b", GPU=2)], CATALOGUE)
    assert found.cluster.groups == ()
    assert found.warnings == (
        "node-a has 8 GPU of XPU9000, which the catalogue does not know; add it to the catalogue, "
        "until then it is left out",
        "node-b has 2 GPU of no stated type, which the catalogue does not know; add it to the "
        "catalogue, until then it is left out",
    )


def test_damaged_nodes_are_left_out() -> None:
    found = discover(
        [{}, {"Resources": None}, {"Resources": {"GPU": "8", "CPU": float("inf")}}], CATALOGUE
    )
    assert found.cluster.groups == ()


CLUSTER = """
groups:
  - {gpu: H100, gpus_per_node: 8, nodes: 2, free_gpus: 12, network_gbps: 50}
  - gpu: nvidia-l40s-48gb
    gpus_per_node: 4
    price_per_gpu_hour: 1.1
    cores_per_node: 16
    memory_gb_per_node: 120
"""


def test_cluster_from_yaml() -> None:
    assert cluster_from_yaml(CLUSTER) == ClusterSpec(
        (
            NodeGroup("nvidia-h100-80gb", 8, 2, 12, 50.0),
            NodeGroup("nvidia-l40s-48gb", 4, 1, None, 12.5, 1.1, 16.0, 120.0),
        )
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: [", "not valid YAML"),
        ("nodes: 3", "expected `groups`, a list"),
        ("groups: []", "expected `groups`, a list"),
        ("groups: [H100]", "groups[0]: expected fields"),
        ("groups: [{gpus_per_node: 8}]", "groups[0].gpu is missing"),
        ("groups: [{gpu: h100}]", "groups[0].gpus_per_node is missing"),
        ("groups: [{gpu: nvidia-h100-81gb, gpus_per_node: 8}]", "groups[0].gpu: no accelerator"),
        ("groups: [{gpu: h100, gpus_per_nod: 8}]", "did you mean gpus_per_node?"),
        (
            "groups: [{gpu: h100, gpus_per_node: 8}, {gpu: h200, gpus_per_node: 8, nodes: 0}]",
            "groups[1].nodes is '0'; it must be an integer from 1 to 100000",
        ),
        ("groups: [{gpu: h100, gpus_per_node: 8.5}]", "groups[0].gpus_per_node is '8.5'"),
        ("groups: [{gpu: h100, gpus_per_node: true}]", "groups[0].gpus_per_node is 'True'"),
        (
            "groups: [{gpu: h100, gpus_per_node: 8, free_gpus: 9}]",
            "groups[0].free_gpus is 9, but the group has 8",
        ),
        (
            "groups: [{gpu: h100, gpus_per_node: 8, network_gbps: .inf}]",
            "groups[0].network_gbps is 'inf'",
        ),
        (
            "groups: [{gpu: h100, gpus_per_node: 8, price_per_gpu_hour: 0}]",
            "groups[0].price_per_gpu_hour is '0'; it must be a number above 0",
        ),
        (
            "groups: [{gpu: h100, gpus_per_node: 8, cores_per_node: none}]",
            "groups[0].cores_per_node is 'none'",
        ),
    ],
)
def test_yaml_errors_name_the_path(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        cluster_from_yaml(text)
