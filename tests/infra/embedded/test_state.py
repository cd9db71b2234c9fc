import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from foundry.config import (
    DatabaseSettings,
    HttpSettings,
    Settings,
    environment_of,
    secret_variables,
)
from foundry.errors import DiskFull, SetupError
from foundry.infra.embedded import paths, ports, ray, state
from foundry.infra.embedded.paths import ensure_home, ensure_runtime_dir, runtime_dir
from foundry.infra.embedded.state import StackState


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    ensure_home(tmp_path / "home")
    ensure_runtime_dir(tmp_path / "home")
    yield tmp_path / "home"
    shutil.rmtree(runtime_dir(tmp_path / "home"), ignore_errors=True)


def test_a_secret_is_known_by_its_type_or_its_password_not_by_its_name() -> None:
    settings = Settings.model_validate(
        {
            "database": {"url": "postgresql+asyncpg://foundry:hidden@db/foundry"},
            "objects": {"url": "s3://bucket", "endpoint_url": "https://user:hidden@s3.example"},
            "client": {"api_key": "fk_hidden", "url": "http://127.0.0.1:8000"},
        }
    )
    assert secret_variables(settings) == {
        "FOUNDRY_DATABASE__URL",
        "FOUNDRY_OBJECTS__ENDPOINT_URL",
        "FOUNDRY_CLIENT__API_KEY",
    }


def test_rays_folder_lies_below_a_private_one(home: Path) -> None:
    """Ray opens its own to everybody."""
    private = paths.ray_dir(home).parent
    assert private.stat().st_mode & 0o777 == 0o700
    assert private.parent == runtime_dir(home)
    assert paths.serve_dir(home).stat().st_mode & 0o777 == 0o700
    deep = paths.ray_dir(home) / "session_2026-11-27_06-44-26_748778_4194304/sockets/plasma_store"
    assert len(str(deep)) < 107
    assert len(str(paths.serve_dir(home) / ("0" * 56) / "metrics.sock")) < 97


def test_what_a_copy_brings_along_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o777)
    (tmp_path / "a" / "log").write_text("x")
    (tmp_path / "a" / "log").chmod(0o644)
    paths.close_to_others(tmp_path)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "a", tmp_path / "a" / "log")]
    assert modes == [0o700, 0o600]


def test_the_state_survives_a_deleted_home(home: Path) -> None:
    kept = StackState("http://127.0.0.1:1", ports={"a": 1}, environment={"B": "2"})
    state.save_state(home, kept.with_process("ray", 7, 1.5))
    shutil.rmtree(home)
    found = state.load_state(home)
    assert found == kept.with_process("ray", 7, 1.5)


def test_a_torn_state_file_is_no_state(home: Path) -> None:
    for path in (home / "run" / "stack.json", runtime_dir(home) / "stack.json"):
        path.write_text('{"url": ')
    assert state.load_state(home) is None


def test_the_home_is_private_and_its_socket_path_short(home: Path) -> None:
    assert (home / "secrets").stat().st_mode & 0o777 == 0o700
    assert len(str(runtime_dir(Path("/" + "x" * 200)) / "pg" / ".s.PGSQL.5432")) < 100
    assert runtime_dir(home) != runtime_dir(home / "other")


def test_a_runtime_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    squatted = runtime_dir(tmp_path)
    squatted.symlink_to(tmp_path)
    try:
        with pytest.raises(SetupError, match="belongs to another user"):
            ensure_runtime_dir(tmp_path)
    finally:
        squatted.unlink()


def test_a_nearly_full_disk_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_MIN_FREE_BYTES", 2**62)
    with pytest.raises(DiskFull, match="free at least 5 GiB there or set FOUNDRY_HOME"):
        ensure_home(tmp_path / "home")


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="set FOUNDRY_HOME to a folder of yours"):
        ensure_home(tmp_path / "file" / "home")


def test_two_stacks_get_different_ports(home: Path, tmp_path: Path) -> None:
    first = ray.pick_ports(Settings(home=home))
    second = ray.pick_ports(Settings(home=tmp_path / "second"))
    assert set(first) == set(second)
    assert not {first[name] for name in first} & {second[name] for name in second} or (
        first["ingress_http"] == second["ingress_http"]
    )
    # The ranges of replicas are shared: Serve looks for a free one in them itself.
    picked = {name: port for name, port in first.items() if not name.startswith("ingress")}
    assert all(ports.is_free("127.0.0.1", port) for port in picked.values())


def test_picked_ports_leave_those_of_the_settings_alone(home: Path) -> None:
    named = ray.pick_ports(Settings(home=home))["haproxy_metrics"]
    settings = Settings(home=home, http=HttpSettings(port=named))
    assert named not in ray.pick_ports(settings).values()


def test_the_environment_is_hardened_and_rebuilds_the_settings(home: Path) -> None:
    settings = Settings(home=home, http=HttpSettings(port=8123))
    found = ray.environment(settings, ray.pick_ports(settings))
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_SERVE_ENABLE_HA_PROXY"] == found["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert found["RAY_SERVE_HAPROXY_SOCKET_PATH"].startswith(str(runtime_dir(home)))
    assert found["FOUNDRY_STACK_ID"] == state.stack_id(home)
    # A socket's path ends at 107 bytes; vLLM appends a slash and a UUID.
    engines = found["VLLM_RPC_BASE_PATH"]
    assert engines.startswith(f"{runtime_dir(home)}/own/")
    assert len(engines) + 37 <= 107
    assert environment_of(settings)["FOUNDRY_HTTP__PORT"] == "8123"


def test_the_token_is_made_once_and_private(home: Path) -> None:
    ray.ensure_token(home)
    first = ray.token_file(home).read_text()
    ray.ensure_token(home)
    assert ray.token_file(home).read_text() == first
    assert len(first) == 64
    assert ray.token_file(home).stat().st_mode & 0o777 == 0o400


def test_secrets_of_settings_reach_children_only() -> None:
    settings = Settings(database=DatabaseSettings(url=SecretStr("postgresql+asyncpg://u:p@h/d")))
    assert environment_of(settings)["FOUNDRY_DATABASE__URL"] == "postgresql+asyncpg://u:p@h/d"


def test_a_state_that_cannot_be_read_is_still_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not state.has_state(tmp_path)
    path = tmp_path / "run" / "stack.json"
    path.parent.mkdir()
    path.write_text("half a fi")
    assert state.load_state(tmp_path) is None
    assert state.has_state(tmp_path)
    path.unlink()

    def refuse(self: Path) -> None:
        raise OSError(24, "too many open files")

    monkeypatch.setattr(Path, "stat", refuse)
    assert state.has_state(tmp_path)
