"""One running stack for every test of this folder: the one that the demo leaves."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import openai
import pytest

from foundry.config import ClientSettings, Settings, child_environment
from foundry.infra.embedded.paths import runtime_dir
from foundry.infra.embedded.ports import find_free_ports
from foundry.install.builds import ROOT
from foundry.sdk import Foundry
from tests.fakes.terminal import open_shell

_PORTS = ("FOUNDRY_HTTP__PORT", "FOUNDRY_RAY__PORT", "FOUNDRY_RAY__DASHBOARD_PORT")


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack in a home of its own.

    Attributes:
        env: the variables by which commands find it.
        printed: what the demo wrote.
        seconds: how long it took.
    """

    home: Path
    url: str
    api_key: str
    env: Mapping[str, str] = field(repr=False)
    printed: str = field(repr=False)
    seconds: float

    def run(self, *command: str, timeout_s: float = 600.0) -> subprocess.CompletedProcess[str]:
        """`python -m command…` in this stack's environment."""
        return _run(self.env, [sys.executable, "-m", *command], timeout_s)

    def shell(self, script: str, timeout_s: float = 600.0) -> subprocess.CompletedProcess[str]:
        """A script as a reader of the README types it, the environment activated."""
        activated = f"export PATH={Path(sys.executable).parent}:$PATH\n{script}"
        return _run(self.env, ["bash", "-euo", "pipefail", "-c", activated], timeout_s)

    def terminal(self, script: str, timeout_s: float = 600.0) -> str:
        """What a terminal of 80 columns shows of a script; it must succeed."""
        activated = f"export PATH={Path(sys.executable).parent}:$PATH\n{script}"
        with open_shell(activated, environment=child_environment(**self.env)) as terminal:
            code = terminal.wait(timeout_s)
        assert code == 0, terminal.shown
        return terminal.shown

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.api_key, max_retries=0)

    def client(self) -> Foundry:
        client = ClientSettings.model_validate({"url": self.url, "api_key": self.api_key})
        return Foundry.from_settings(Settings(home=self.home, client=client))

    def matches(self, model: str) -> tuple[int, int]:
        """(exact matches, prompts) in the table that the demo printed."""
        found = re.search(rf"{model}\s*│\s*(\d+) / (\d+)", self.printed)
        assert found is not None, self.printed
        return int(found[1]), int(found[2])


def _run(
    env: Mapping[str, str], command: Sequence[str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
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
    ports = find_free_ports(str(home))
    env = {"FOUNDRY_HOME": str(home), **{name: str(next(ports)) for name in _PORTS}}
    try:
        began = time.monotonic()
        demo = _run(env, [sys.executable, "-m", "workflows.demo"], timeout_s=900)
        assert demo.returncode == 0, demo.stdout + demo.stderr
        seconds = time.monotonic() - began
        found = json.loads((home / "credentials.json").read_text())
        yield Stack(home, found["url"], found["api_key"], env, demo.stdout, seconds)
    finally:
        stopped = _run(env, [sys.executable, "-m", "foundry.cli.main", "down"], timeout_s=120)
        shutil.rmtree(home, ignore_errors=True)
        assert stopped.returncode == 0, stopped.stderr
        assert not runtime_dir(home).exists()
