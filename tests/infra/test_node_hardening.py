"""What a node must have been started with."""

from pathlib import Path

import pytest

from foundry.errors import SetupError
from foundry.infra.embedded import haproxy
from foundry.infra.node_hardening import find_weakness, require_hardened_nodes
from foundry.install.builds import ROOT


def _node(folder: Path) -> dict[str, str]:
    folder.chmod(0o700)
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(ROOT / "cluster_configs" / "haproxy"),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
    }


def test_a_node_of_the_example_and_one_of_a_laptop_are_taken(tmp_path: Path) -> None:
    node = _node(tmp_path)
    assert find_weakness(node) is None
    launcher = haproxy.write_launcher(tmp_path, Path("/bin/echo"))
    assert find_weakness({**node, "RAY_SERVE_HAPROXY_BINARY_PATH": str(launcher)}) is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RAY_AUTH_MODE", "disabled", "set RAY_AUTH_MODE=token"),
        ("RAY_SERVE_ENABLE_HA_PROXY", "0", "set RAY_SERVE_ENABLE_HA_PROXY=1"),
        (
            "RAY_SERVE_HAPROXY_BINARY_PATH",
            "/bin/sh",
            "set RAY_SERVE_HAPROXY_BINARY_PATH to cluster_configs/haproxy of its checkout, "
            "not '/bin/sh'",
        ),
        (
            "RAY_SERVE_HAPROXY_SOCKET_PATH",
            "/tmp/admin.sock",
            "set RAY_SERVE_HAPROXY_SOCKET_PATH to a file in a folder that is there and 0700, "
            "not /tmp",
        ),
        (
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH",
            "/nowhere/metrics.sock",
            "set RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH to a file in a folder that is there and "
            "0700, not /nowhere",
        ),
    ],
)
def test_what_a_node_lacks_is_named(tmp_path: Path, name: str, value: str, says: str) -> None:
    assert find_weakness({**_node(tmp_path), name: value}) == says


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o720])
def test_a_folder_of_its_own_is_closed_to_groups_too(tmp_path: Path, mode: int) -> None:
    node = _node(tmp_path)
    tmp_path.chmod(mode)
    assert find_weakness(node) == (
        "set RAY_SERVE_HAPROXY_CONFIG_FILE_LOC to a file in a folder that is there and 0700, "
        f"not {tmp_path}"
    )


def test_every_variable_is_needed(tmp_path: Path) -> None:
    node = _node(tmp_path)
    for name in node:
        weakness = find_weakness({key: value for key, value in node.items() if key != name})
        assert weakness is not None
        assert name in weakness


def test_weak_nodes_are_named_together() -> None:
    require_hardened_nodes(lambda: {"10.0.0.1 (a)": None, "10.0.0.2 (b)": None})
    with pytest.raises(SetupError) as refused:
        require_hardened_nodes(
            lambda: {"10.0.0.1 (a)": "set X", "10.0.0.2 (b)": None, "10.0.0.3 (c)": "set Y"}
        )
    assert refused.value.message == (
        "start these nodes again with cluster_configs/on-premises.env: "
        "10.0.0.1 (a): set X; 10.0.0.3 (c): set Y"
    )
