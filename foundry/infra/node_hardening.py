"""Whether every node of a cluster runs with what keeps it closed.

A node's processes have the environment of its `ray start`, which no other node knows: so each is
asked (`serve_apps.nodes`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from foundry.errors import SetupError
from foundry.infra.embedded.haproxy import is_launcher

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
