"""The cluster at hand, from what the scheduler reports or from a YAML file."""

import difflib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import yaml

from foundry.engines.budsim.catalogue import Catalogue, finite_number
from foundry.engines.budsim.request import ClusterSpec, NodeGroup
from foundry.errors import InvalidRequest
from foundry.validation import tell_place

CPU = "cpu"
# Ray counts most vendors' devices as GPU; Gaudi and Ascend have names of their own.
_DEVICE_RESOURCES = ("GPU", "HPU", "NPU", "TPU")
_TYPE_PREFIX = "accelerator_type:"
_TYPE_LABEL = "ray.io/accelerator-type"
_MOST = 2.0**60
# Services of the platform take a share of each node; an engine still finds room beside them.
_FREE_CPU_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Discovery:
    """`warnings`: sentences about what could not be used or had to be guessed."""

    cluster: ClusterSpec
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Node:
    """Attributes: cores, memory_gb: that replicas may reserve; None: it does not tell."""

    gpu: str
    total: int
    free: int
    cores: float | None
    memory_gb: float | None


def cluster_spec(
    nodes: Sequence[Mapping[str, object]],
    catalogue: Catalogue,
    *,
    free: Mapping[str, Mapping[str, float]] | None = None,
) -> ClusterSpec:
    """As `discover`, without the warnings."""
    return discover(nodes, catalogue, free=free).cluster


def discover(
    nodes: Sequence[Mapping[str, object]],
    catalogue: Catalogue,
    *,
    free: Mapping[str, Mapping[str, float]] | None = None,
) -> Discovery:
    """Groups of equal nodes. A node without accelerators counts as one of type `cpu`.

    A partly used node counts as one with as many accelerators as it has free, so that no tensor
    parallel group is planned over devices in use.

    Args:
        nodes: dictionaries as `ray.nodes()` returns them: NodeID, Alive, Resources, Labels.
        free: resources that nothing uses now, by NodeID; None: all are free.
    """
    usable: list[_Node] = []
    warnings: dict[str, None] = {}
    for node in nodes:
        if node.get("Alive", True):
            found, warning = _read(node, catalogue, free)
            usable += [found] if found else []
            if warning:
                warnings[warning] = None
    return Discovery(ClusterSpec(_grouped(usable)), tuple(warnings))


def _read(
    node: Mapping[str, object],
    catalogue: Catalogue,
    free: Mapping[str, Mapping[str, float]] | None,
) -> tuple[_Node | None, str]:
    """The node, or None with the reason why it is left out; the warning may be empty."""
    node_id = str(node.get("NodeID", ""))
    name = str(node.get("NodeName") or node_id[:12] or "a node")
    resources = _numbers(node.get("Resources"))
    available = resources if free is None else _numbers(free.get(node_id, {}))
    device = next((key for key in _DEVICE_RESOURCES if resources.get(key, 0.0) >= 1.0), None)
    if device is None:
        cpus = resources.get("CPU", 0.0)
        if cpus < 1.0:
            return None, ""
        is_free = available.get("CPU", 0.0) >= _FREE_CPU_SHARE * cpus
        host = _host(resources, _FREE_CPU_SHARE)
        return _Node(CPU, 1, int(is_free), *host), ""
    total, unused = int(resources[device]), int(available.get(device, 0.0))
    types = _accelerator_types(node, resources)
    known = [kind for kind in types if kind in catalogue]
    if not known:
        kinds = " or ".join(types) or "no stated type"
        return None, (
            f"{name} has {total} {device} of {kinds}, which the catalogue does not know; "
            "add it to the catalogue, until then it is left out"
        )
    kind = max(known, key=len)
    gpu = catalogue.gpu(kind).id
    host = _host(resources, 1.0)
    return _Node(gpu, total, min(unused, total), *host), _ambiguity(kind, gpu, catalogue)


def _host(resources: Mapping[str, float], share: float) -> tuple[float | None, float | None]:
    """Cores, of which replicas may have a share, and memory in whole 10⁹ bytes: a scheduler's
    count differs a little from start to start, and the question is the same."""
    cores, memory = resources.get("CPU"), resources.get("memory")
    return cores and cores * share, memory and float(max(memory // 1e9, 1.0))


def _accelerator_types(node: Mapping[str, object], resources: Mapping[str, float]) -> list[str]:
    types = [key.removeprefix(_TYPE_PREFIX) for key in resources if key.startswith(_TYPE_PREFIX)]
    labels = node.get("Labels")
    label = labels.get(_TYPE_LABEL) if isinstance(labels, Mapping) else None
    return sorted({*types, str(label)} if label else {*types})


def _ambiguity(kind: str, gpu: str, catalogue: Catalogue) -> str:
    """Ray's `A100` does not tell 40 GB from 80 GB."""
    word = f"-{kind.lower()}-"
    variants = [other for other in catalogue.ids if word in f"{other}-"]
    if len(variants) < 2:
        return ""
    others = ", ".join(other for other in variants if other != gpu)
    return (
        f"accelerator type {kind} is read as {gpu}; if it is {others}, give the node the resource "
        f"{_TYPE_PREFIX}<that id>"
    )


def _numbers(resources: object) -> dict[str, float]:
    if not isinstance(resources, Mapping):
        return {}
    return {
        str(key): float(value)
        for key, value in resources.items()
        if isinstance(value, int | float) and 0 <= value < _MOST
    }


def _grouped(nodes: Sequence[_Node]) -> tuple[NodeGroup, ...]:
    groups: dict[tuple[str, int], list[_Node]] = defaultdict(list)
    for node in nodes:
        groups[node.gpu, node.free or node.total].append(node)
    return tuple(
        NodeGroup(
            gpu,
            size,
            len(members),
            sum(member.free for member in members),
            # What each of them has.
            cores_per_node=min((one.cores for one in members if one.cores), default=None),
            memory_gb_per_node=min(
                (one.memory_gb for one in members if one.memory_gb), default=None
            ),
        )
        for (gpu, size), members in sorted(groups.items())
    )


_FIELDS = tuple(item.name for item in fields(NodeGroup))
_COUNTS = ("gpus_per_node", "nodes", "free_gpus")
_HOST = ("cores_per_node", "memory_gb_per_node")


def cluster_from_yaml(text: str, catalogue: Catalogue | None = None) -> ClusterSpec:
    """A cluster that somebody wrote down: `groups`, a list with the fields of `NodeGroup`.

    Args:
        catalogue: resolves names of accelerators; None: the shipped one.
    Raises:
        InvalidRequest: names the path of the bad field, like `groups[1].nodes`.
    """
    try:
        document = yaml.safe_load(text)
    # Dates that do not exist and endless integers are ValueErrors.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"cluster: not valid YAML{tell_place(error)}") from error
    groups = document.get("groups") if isinstance(document, Mapping) else None
    if not isinstance(groups, list) or not groups:
        raise InvalidRequest(
            "cluster: expected `groups`, a list of entries with gpu, gpus_per_node and nodes",
            field="groups",
        )
    known = catalogue or Catalogue.shipped()
    return ClusterSpec(tuple(_group(i, group, known) for i, group in enumerate(groups)))


def _group(index: int, entry: object, catalogue: Catalogue) -> NodeGroup:
    path = f"groups[{index}]"
    if not isinstance(entry, Mapping):
        raise InvalidRequest(f"cluster: {path}: expected fields like gpu and nodes", field=path)
    for key in entry:
        if key not in _FIELDS:
            near = difflib.get_close_matches(str(key), _FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"accepted: {', '.join(_FIELDS)}"
            raise InvalidRequest(f"cluster: {path}.{key} is unknown; {hint}", field=f"{path}.{key}")
    for key in ("gpu", "gpus_per_node"):
        if entry.get(key) is None:
            raise InvalidRequest(f"cluster: {path}.{key} is missing", field=f"{path}.{key}")
    try:
        gpu = catalogue.gpu(str(entry["gpu"])).id
    except InvalidRequest as error:
        raise InvalidRequest(f"cluster: {path}.gpu: {error}", field=f"{path}.gpu") from error
    price = entry.get("price_per_gpu_hour")
    counts = {
        key: _count(f"{path}.{key}", entry[key]) for key in _COUNTS if entry.get(key) is not None
    }
    cores, memory = (
        None if entry.get(key) is None else _amount(f"{path}.{key}", entry[key]) for key in _HOST
    )
    group = NodeGroup(
        gpu=gpu,
        network_gbps=_amount(f"{path}.network_gbps", entry.get("network_gbps", 12.5)),
        price_per_gpu_hour=None if price is None else _amount(f"{path}.price_per_gpu_hour", price),
        **counts,
        cores_per_node=cores,
        memory_gb_per_node=memory,
    )
    _check_free(path, group)
    return group


def _check_free(path: str, group: NodeGroup) -> None:
    total = group.gpus_per_node * group.nodes
    if group.free_gpus is not None and group.free_gpus > total:
        raise InvalidRequest(
            f"cluster: {path}.free_gpus is {group.free_gpus}, but the group has {total}",
            field=f"{path}.free_gpus",
        )


def _count(path: str, value: object) -> int:
    low = 0 if path.endswith("free_gpus") else 1
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= 100_000:
        raise InvalidRequest(
            f"cluster: {path} is {str(value)[:80]!r}; it must be an integer from {low} to 100000",
            field=path,
        )
    return value


def _amount(path: str, value: object) -> float:
    return finite_number(value, f"cluster: {path}", low=0.0, exclusive=True)
