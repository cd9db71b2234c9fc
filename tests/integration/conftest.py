"""One running stack for every test of this folder."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from foundry.config import child_environment
from foundry.infra.embedded.paths import runtime_dir
from foundry.infra.embedded.ports import free_ports
from foundry.install.installer import ROOT

_PORTS = ("FOUNDRY_HTTP__PORT", "FOUNDRY_RAY__PORT", "FOUNDRY_RAY__DASHBOARD_PORT")


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack in a home of its own.

    Attributes:
        env: the variables by which commands find it.
    """

    home: Path
    url: str
    api_key: str
    env: Mapping[str, str]

    def run(self, *command: str, timeout_s: float = 600.0) -> subprocess.CompletedProcess[str]:
        """`python -m command…` in this stack's environment."""
        return _run(self.env, *command, timeout_s=timeout_s)


def _run(
    env: Mapping[str, str], *command: str, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=child_environment(**env),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    home = Path(tempfile.mkdtemp(prefix="fdry-it-"))
    ports = free_ports(str(home))
    env = {"FOUNDRY_HOME": str(home), **{name: str(next(ports)) for name in _PORTS}}
    try:
        started = _run(env, "foundry.cli.main", "up", timeout_s=400)
        assert started.returncode == 0, started.stderr
        credentials = json.loads((home / "credentials.json").read_text())
        yield Stack(home, credentials["url"], credentials["api_key"], env)
    finally:
        stopped = _run(env, "foundry.cli.main", "down", timeout_s=120)
        shutil.rmtree(home, ignore_errors=True)
        assert stopped.returncode == 0, stopped.stderr
        assert not runtime_dir(home).exists()
