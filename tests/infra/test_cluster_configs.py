"""The shipped configuration of a cluster: its settings, its nodes and its firewall."""

import re
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from foundry.config import Settings, load_settings, unknown_variables
from foundry.errors import SetupError
from foundry.governance.identity.pepper import pepper_path
from foundry.infra.cluster_hardening import require_hardened, require_variables
from foundry.infra.database_roles import DatabaseRole
from foundry.infra.embedded import ray
from foundry.infra.node_hardening import find_weakness
from foundry.infra.wiring import database_url
from foundry.install.builds import ROOT
from tests.fakes.ray_doors import TOKEN, cluster, node_certificate

_FOLDER = ROOT / "cluster_configs"
_ENVIRONMENT = _FOLDER / "on-premises.env"
_FIREWALL = _FOLDER / "nftables.conf"
# Who reads what is not Foundry's; its own variables are known to `unknown_variables`.
_READERS = {
    "RAY_": "ray",
    "HF_": "huggingface_hub",
    "VLLM_": "vllm",
    "DO_NOT_TRACK": "vllm",
    "PGSSLROOTCERT": "asyncpg",
}


def read_as_systemd(text: str) -> dict[str, str]:
    """`EnvironmentFile=`: comments with # or ;, quotes taken away, nothing expanded."""
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            continue
        name, _, value = line.partition("=")
        (found[name.strip()],) = shlex.split(value) or [""]
    return found


def read_as_docker(text: str) -> dict[str, str]:
    """`--env-file`: everything after the first = is the value, quotes included."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def read_as_shell(path: Path) -> dict[str, str]:
    """`set -a; . file`: what the page of the walk says."""
    script = 'set -a; . "$1"; set +a; env -0'
    done = subprocess.run(
        ["sh", "-c", script, "sh", str(path)], env={}, check=True, capture_output=True, text=True
    )
    pairs = [pair.split("=", 1) for pair in done.stdout.split("\0") if pair]
    return {name: value for name, value in pairs if name not in ("PWD", "OLDPWD", "SHLVL", "_")}


@pytest.fixture
def shipped() -> dict[str, str]:
    return read_as_docker(_ENVIRONMENT.read_text())


def _load(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_systemd_docker_and_a_shell_read_the_same(shipped: dict[str, str]) -> None:
    assert read_as_systemd(_ENVIRONMENT.read_text()) == shipped
    assert read_as_shell(_ENVIRONMENT) == shipped
    assert all(shipped.values())


def test_the_example_is_settings(shipped: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _load(shipped, monkeypatch)
    urls = {
        DatabaseRole.APP: "postgresql+asyncpg://foundry_app:password@postgres.example:5432/foundry",
        DatabaseRole.GATEWAY: "postgresql+asyncpg://foundry_gateway:password@postgres.example:5432/foundry",
        DatabaseRole.MIGRATE: "postgresql+asyncpg://foundry_migrate:password@postgres.example:5432/foundry",
    }
    for role, url in urls.items():
        assert database_url(settings, role) == f"{url}?ssl=verify-full"
        assert urlsplit(url).username == role
    assert settings.database.pool_size == 10
    assert settings.objects.url == "s3://foundry/artifacts"
    assert settings.objects.endpoint_url == "https://s3.example"
    assert settings.ray.address == shipped["RAY_ADDRESS"] == "ray-head.example:6379"
    assert (settings.ray.dashboard_host, settings.ray.dashboard_port) == ("127.0.0.1", 8265)
    assert (settings.http.host, settings.http.port) == ("0.0.0.0", 8000)
    assert pepper_path(settings) == Path("/etc/foundry/pepper")


def test_no_variable_of_it_is_dead(shipped: dict[str, str]) -> None:
    """Each is one that the program it is for reads, in the version that is installed."""
    assert unknown_variables(shipped) == []
    others = {name for name in shipped if not name.startswith("FOUNDRY_")} - {"PYTHONPATH"}
    for name in sorted(others):
        (package,) = [reader for start, reader in _READERS.items() if name.startswith(start)]
        assert _mentions(package, name), name


def _mentions(package: str, name: str) -> bool:
    """Ray's core reads RAY_<flag> for every flag of its own, by the flag's name."""
    spec = find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    word = name.removeprefix("RAY_") if package == "ray" else name
    command = ["grep", "-rqF", "--include=*.py", "--include=_raylet.so", word]
    folder = Path(str(spec.origin)).parent
    return subprocess.run([*command, str(folder)], check=False).returncode == 0


def test_the_example_is_as_hard_as_a_laptop(shipped: dict[str, str]) -> None:
    only_here = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "VLLM_HOST_IP", "SPT_NOENV"}
    wanted = {name: value for name, value in ray.HARDENED.items() if name not in only_here}
    assert {name: shipped.get(name) for name in wanted} == wanted


def test_the_example_is_taken_where_its_services_are(
    shipped: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files and addresses moved here, its cluster a fake one; everything else as shipped."""
    settings = _load(shipped, monkeypatch)
    require_variables(settings, shipped)
    tls = node_certificate()
    here = _moved(shipped, tmp_path)
    for name, content in {
        "ray-token": TOKEN.encode(),
        "tls/node.pem": tls.certificate,
        "tls/node-key.pem": tls.key,
        "tls/ca.pem": tls.authority,
    }.items():
        path = tmp_path / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o400)
    with cluster(tls=tls) as doors:
        here |= {
            "RAY_ADDRESS": doors.control,
            "FOUNDRY_RAY__ADDRESS": doors.control,
            "FOUNDRY_RAY__DASHBOARD_PORT": str(doors.dashboard_port),
        }
        require_hardened(_load(here, monkeypatch), here)
    with cluster(control_token=None, tls=tls) as doors:
        here |= {"RAY_ADDRESS": doors.control, "FOUNDRY_RAY__ADDRESS": doors.control}
        with pytest.raises(SetupError, match="answers callers without a token"):
            require_hardened(_load(here, monkeypatch), here)


def test_a_node_with_it_is_taken_once_its_folders_are_there(
    shipped: dict[str, str], tmp_path: Path
) -> None:
    here = _moved(shipped, tmp_path)
    assert find_weakness(here) == (
        "set RAY_SERVE_HAPROXY_CONFIG_FILE_LOC to a file in a folder that is there and 0700, "
        f"not {tmp_path}/lib/serve"
    )
    (tmp_path / "lib" / "serve").mkdir(parents=True, mode=0o700)
    assert find_weakness(here) is None


def _moved(shipped: dict[str, str], folder: Path) -> dict[str, str]:
    places = {
        "/opt/foundry": str(ROOT),
        "/etc/foundry": str(folder / "etc"),
        "/var/lib/foundry": str(folder / "lib"),
    }
    moved = {}
    for name, value in shipped.items():
        for shipped_place, place in places.items():
            value = value.replace(shipped_place, place)
        moved[name] = value
    return moved


@pytest.mark.parametrize("name", ["FOUNDRY_SECURITY__PEPPER_FILE", "RAY_AUTH_TOKEN_PATH"])
def test_without_its_secrets_the_example_is_refused(
    shipped: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    del shipped[name]
    settings = _load(shipped, monkeypatch)
    with pytest.raises(SetupError, match=f"set {name}"):
        pepper_path(settings)
        require_variables(settings, shipped)


def find_nft() -> str | None:
    return shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")


def test_the_firewall_is_what_nft_reads() -> None:
    nft = find_nft()
    if nft is None:
        pytest.skip("nft is not installed: the firewall's syntax is not checked")
    done = subprocess.run(
        [nft, "-c", "-f", str(_FIREWALL)], capture_output=True, text=True, check=False
    )
    if "Operation not permitted" in done.stderr:
        pytest.skip("nft needs the right to change the network")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_firewall_names_the_ports_of_the_example_and_of_the_walk(
    shipped: dict[str, str],
) -> None:
    text = _FIREWALL.read_text()
    ports = dict(re.findall(r"^define (http|metrics) = (\d+)$", text, re.MULTILINE))
    assert ports == {"http": shipped["FOUNDRY_HTTP__PORT"], "metrics": "8090"}
    walk = (ROOT / "docs" / "security.md").read_text()
    started = [line for line in walk.splitlines() if "ray start " in line and "--block" in line]
    assert len(started) == 2
    for line in started:
        assert "--metrics-export-port=8090" in line
    # Ours alone: another table's rules, and Docker's, are no business of this file.
    assert "flush ruleset" not in text
    assert re.findall(r"^(?:delete )?table .*$", text, re.MULTILINE) == [
        "table inet foundry",
        "delete table inet foundry",
        "table inet foundry {",
    ]
