"""What is refused before anything starts: settings first, then what the cluster itself answers."""

import shutil
import socket
import tempfile
from pathlib import Path

import pytest

from foundry.config import RaySettings, Settings
from foundry.errors import SetupError
from foundry.infra.cluster_hardening import require_hardened, require_variables
from foundry.infra.cluster_probe import Tls
from foundry.infra.embedded import ray
from foundry.infra.embedded.paths import ensure_home, ensure_runtime_dir, runtime_dir, write_private
from foundry.infra.embedded.ports import find_free_ports
from foundry.infra.embedded.processes import list_stack_processes, stop_processes
from foundry.infra.embedded.state import stack_id
from tests.fakes.ray_doors import TOKEN, Doors, cluster, node_certificate

_REMOTE = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN_PATH": "/etc/foundry/ray-token",
    "RAY_ADDRESS": "10.0.0.1:6379",
    "RAY_USE_TLS": "1",
    "RAY_TLS_SERVER_CERT": "/etc/foundry/tls/node.pem",
    "RAY_TLS_SERVER_KEY": "/etc/foundry/tls/node-key.pem",
    "RAY_TLS_CA_CERT": "/etc/foundry/tls/ca.pem",
}
_EXTERNAL = Settings(ray=RaySettings(address="10.0.0.1:6379"))


def test_complete_variables_are_taken() -> None:
    require_variables(_EXTERNAL, _REMOTE)
    without = {name: value for name, value in _REMOTE.items() if "TLS" not in name}
    require_variables(Settings(), {**without, "RAY_ADDRESS": "127.0.0.1:6380"})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_MODE": ""}, "set RAY_AUTH_MODE=token"),
        ({"RAY_ADDRESS": ""}, "set RAY_ADDRESS to host:port"),
        ({"RAY_ADDRESS": "auto"}, "set RAY_ADDRESS to host:port"),
        ({"RAY_ADDRESS": "10.0.0.2:6379"}, "set both to the same cluster"),
        ({"RAY_AUTH_TOKEN_PATH": ""}, "set RAY_AUTH_TOKEN_PATH: see cluster_configs"),
        ({"RAY_USE_TLS": "0"}, "set RAY_USE_TLS=1 on every node and here: 10.0.0.1 is not loop"),
        ({"RAY_TLS_CA_CERT": ""}, "set RAY_TLS_CA_CERT: see"),
    ],
)
def test_what_the_variables_leave_open_is_refused(changed: dict[str, str], says: str) -> None:
    with pytest.raises(SetupError, match=says):
        require_variables(_EXTERNAL, {**_REMOTE, **changed})


def test_the_token_never_crosses_the_network_to_a_dashboard() -> None:
    ray = RaySettings(address="10.0.0.1:6379", dashboard_host="10.0.0.1")
    with pytest.raises(SetupError, match=r"--dashboard-host=127\.0\.0\.1"):
        require_variables(Settings(ray=ray), _REMOTE)


def _require_hardened(
    doors: Doors, folder: Path, token: str = TOKEN, tls: Tls | None = None
) -> None:
    """As the process that starts the applications does, with files in `folder`."""
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_ADDRESS": doors.control,
    }
    (folder / "token").write_text(token + "\n")
    (folder / "token").chmod(0o400)
    if tls is not None:
        files = {
            "RAY_TLS_SERVER_CERT": tls.certificate,
            "RAY_TLS_SERVER_KEY": tls.key,
            "RAY_TLS_CA_CERT": tls.authority,
        }
        for name, content in files.items():
            (folder / name).write_bytes(content)
            environment[name] = str(folder / name)
        environment["RAY_USE_TLS"] = "1"
    settings = Settings(ray=RaySettings(address=doors.control, dashboard_port=doors.dashboard_port))
    require_hardened(settings, environment, timeout_s=10)


def test_a_cluster_that_asks_for_our_token_is_taken(tmp_path: Path) -> None:
    with cluster() as doors:
        _require_hardened(doors, tmp_path)


def test_and_one_that_speaks_tls(tmp_path: Path) -> None:
    tls = node_certificate()
    with cluster(tls=tls) as doors:
        _require_hardened(doors, tmp_path, tls=tls)


def test_a_cluster_that_answers_everybody_is_refused_whatever_our_shell_says(
    tmp_path: Path,
) -> None:
    with (
        cluster(control_token=None) as doors,
        pytest.raises(SetupError, match=f"control service at {doors.control} answers callers with"),
    ):
        _require_hardened(doors, tmp_path)


def test_an_open_dashboard_is_refused_though_the_control_service_is_closed(tmp_path: Path) -> None:
    with (
        cluster(dashboard_token=None) as doors,
        pytest.raises(
            SetupError, match=f"dashboard at 127.0.0.1:{doors.dashboard_port} answers callers with"
        ),
    ):
        _require_hardened(doors, tmp_path)


@pytest.mark.parametrize(("control", "other"), [("f" * 64, TOKEN), (TOKEN, "f" * 64)])
def test_another_clusters_token_is_refused(tmp_path: Path, control: str, other: str) -> None:
    with (
        cluster(control_token=control, dashboard_token=other) as doors,
        pytest.raises(SetupError, match="refuses the token in RAY_AUTH_TOKEN_PATH"),
    ):
        _require_hardened(doors, tmp_path)


def test_a_cluster_without_the_tls_that_we_want_is_refused(tmp_path: Path) -> None:
    with cluster() as doors, pytest.raises(SetupError, match="speaks without TLS: start every"):
        _require_hardened(doors, tmp_path, tls=node_certificate())


def test_a_cluster_that_is_away_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    doors = Doors(f"127.0.0.1:{port}", port)
    with pytest.raises(SetupError, match=f"control service at 127.0.0.1:{port} does not answer"):
        _require_hardened(doors, tmp_path)


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        ("\n", 0o400, "is empty: put 64 random hex digits there"),
        (TOKEN, 0o440, "readable by others: run `chmod 400"),
        (None, 0, r"RAY_AUTH_TOKEN_PATH: .* cannot be read \(No such file"),
    ],
)
def test_an_unsafe_token_file_is_refused(
    tmp_path: Path, content: str | None, mode: int, says: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(path),
        "RAY_ADDRESS": "127.0.0.1:1",
    }
    with pytest.raises(SetupError, match=says):
        require_hardened(Settings(), environment)


@pytest.mark.ray
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_laptops_own_ray_is_taken() -> None:
    """The real thing, and with another token the real refusal."""
    home = Path(tempfile.mkdtemp(prefix="fdry-test-"))
    ports = find_free_ports(str(home))
    settings = Settings(
        home=home, ray=RaySettings(port=next(ports), dashboard_port=next(ports), num_cpus=1)
    )
    ensure_home(home)
    ensure_runtime_dir(home)
    ray.ensure_token(home)
    picked = ray.pick_ports(settings)
    environment = ray.environment(settings, picked)
    head = ray.start(settings, environment, picked)
    try:
        ray.wait_ready(settings, head, lambda waited: None)
        require_hardened(settings, environment)
        other = home / "other-token"
        write_private(other, "f" * 64, mode=0o400)
        with pytest.raises(SetupError, match="refuses the token in RAY_AUTH_TOKEN_PATH"):
            require_hardened(settings, {**environment, "RAY_AUTH_TOKEN_PATH": str(other)})
    finally:
        stop_processes([head, *list_stack_processes(stack_id(home))], grace_s=5.0)
        shutil.rmtree(home)
        shutil.rmtree(runtime_dir(home), ignore_errors=True)
