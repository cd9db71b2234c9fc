"""Whether every node of a cluster runs with what keeps it closed.

A node's processes have the environment of its `ray start`, which no other node knows: so each is
asked, by a task that runs there.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foundry.config import child_environment
from foundry.errors import SetupError
from foundry.infra.embedded.haproxy import is_launcher

# A node's first worker loads Foundry, which takes seconds; one that is lost takes Ray a minute.
_TIMEOUT_S = 120.0
_LAUNCHER = "RAY_SERVE_HAPROXY_BINARY_PATH"
# HAProxy's own files: through its administration socket one can send requests anywhere.
_FILES = (
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC",
    "RAY_SERVE_HAPROXY_SOCKET_PATH",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH",
)


def find_weakness(environment: Mapping[str, str]) -> str | None:
    """What is wrong with the node that runs with `environment`; None: nothing.

    Args:
        environment: of a process of that node.
    """
    wanted = {"RAY_AUTH_MODE": "token", "RAY_SERVE_ENABLE_HA_PROXY": "1"}
    for name, value in wanted.items():
        if environment.get(name) != value:
            return f"set {name}={value}"
    launcher = environment.get(_LAUNCHER, "")
    if not is_launcher(Path(launcher)):
        return f"set {_LAUNCHER} to cluster_configs/haproxy of its checkout, not {launcher!r}"
    for name in _FILES:
        folder = Path(environment.get(name, "/tmp/haproxy-serve/file")).parent
        if not folder.is_dir() or folder.stat().st_mode & 0o077:
            return f"set {name} to a file in a folder that is there and 0700, not {folder}"
    return None


def require_hardened_nodes(ask: Callable[[], Mapping[str, str | None]]) -> None:
    """Refuse a cluster with a node that was started without what the others have.

    Args:
        ask: name of each node to what is wrong with it.

    Raises:
        SetupError: names the nodes.
    """
    weak = [f"{node}: {problem}" for node, problem in ask().items() if problem is not None]
    if weak:
        raise SetupError(
            f"start these nodes again with cluster_configs/on-premises.env: {'; '.join(weak)}"
        )


def ask_nodes() -> dict[str, str | None]:
    """What is wrong with each living node of the cluster that this process belongs to."""
    living = [node for node in ray.nodes() if node["Alive"]]
    names = {node["NodeID"]: str(node["NodeManagerAddress"]) for node in living}
    task = ray.remote(num_cpus=0, max_retries=0)(_find_weakness_here)
    asked = {
        node: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote()
        for node in names
    }
    answered, _ = ray.wait(
        list(asked.values()), num_returns=len(asked), timeout=_TIMEOUT_S, fetch_local=False
    )
    return {
        f"{names[node]} ({node[:8]})": _answer_of(reference, reference in answered)
        for node, reference in asked.items()
    }


def _find_weakness_here() -> str | None:
    return find_weakness(child_environment())


def _answer_of(reference: object, answered: bool) -> str | None:
    if not answered:
        return f"it did not answer in {_TIMEOUT_S:.0f} s"
    try:
        found: str | None = ray.get(reference, timeout=_TIMEOUT_S)
    except ray.exceptions.RayError as error:
        return (
            f"it could not be asked ({type(error).__name__}): is this checkout on its PYTHONPATH?"
        )
    return found
