"""Ten mistakes a newcomer makes; each ends in one clear sentence and a next step.

1 wrong key          2 wrong model name    3 a second demo while one runs   4 port taken
5 stopped half-way   6 no disk             7 old Python                     8 no network
9 down twice        10 home deleted while up
"""

import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import openai
import psutil
import pytest

from foundry.cli.main import run
from foundry.config import child_environment
from foundry.infra.embedded import paths, postgres, state
from foundry.infra.embedded.home_lock import lock_home
from foundry.infra.embedded.paths import runtime_dir
from foundry.infra.embedded.ports import find_free_ports
from foundry.infra.embedded.processes import list_stack_processes, wait_until_gone
from foundry.infra.embedded.state import stack_id
from foundry.install.builds import ROOT, light_build
from foundry.install.installer import stamp_text

_CLI = (sys.executable, "-m", "foundry.cli.main")
_WAIT_S = 60.0


class RunningStack(Protocol):
    """What the session's `stack` fixture offers."""

    @property
    def url(self) -> str: ...

    @property
    def api_key(self) -> str: ...

    @property
    def env(self) -> Mapping[str, str]: ...


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fdry-new-"))
    yield folder
    foundry("down", home=folder)
    shutil.rmtree(folder, ignore_errors=True)


def foundry(*arguments: str, home: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_CLI, *arguments],
        env=child_environment(FOUNDRY_HOME=str(home), **extra),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_one_sentence(text: str, *parts: str) -> None:
    """An error of one line that has every part, and no traceback."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    for part in parts:
        assert part in lines[0]


@pytest.mark.engine
def test_1_a_wrong_key(stack: RunningStack) -> None:
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key="fk_live_wrong", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError) as caught:
        client.models.list()
    assert caught.value.status_code == 401
    assert caught.value.code == "invalid_api_key"
    result = subprocess.run(
        [*_CLI, "models", "list"],
        env=child_environment(**{**stack.env, "FOUNDRY_CLIENT__API_KEY": "fk_live_wrong"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 4
    assert_one_sentence(result.stderr, "key")


@pytest.mark.engine
def test_2_a_wrong_model_name(stack: RunningStack) -> None:
    client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key=stack.api_key, max_retries=0)
    with client, pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(
            model="no-such-model", messages=[{"role": "user", "content": "hello"}]
        )
    assert caught.value.code == "model_not_found"
    assert "no-such-model" in caught.value.message


def test_3_a_second_demo_while_one_runs(home: Path) -> None:
    with lock_home(home, "make demo", name="demo"):
        result = subprocess.run(
            [sys.executable, "-m", "workflows.demo"],
            env=child_environment(FOUNDRY_HOME=str(home)),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 6
    assert_one_sentence(result.stderr, "make demo (pid", "wait until it ends", "FOUNDRY_HOME")


def test_4_a_taken_port(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = foundry("up", home=home, FOUNDRY_HTTP__PORT=port)
    assert result.returncode == 2
    assert_one_sentence(result.stderr, f"port {port} is taken by", "FOUNDRY_HTTP__PORT=")
    assert list_stack_processes(stack_id(home)) == []


@pytest.mark.ray
def test_5_stopped_half_way(home: Path) -> None:
    ports = find_free_ports(str(home))
    names = ("FOUNDRY_HTTP__PORT", "FOUNDRY_RAY__PORT", "FOUNDRY_RAY__DASHBOARD_PORT")
    settings = {name: str(next(ports)) for name in names}
    with subprocess.Popen(
        [*_CLI, "up"],
        env=child_environment(FOUNDRY_HOME=str(home), **settings),
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    ) as up:
        deadline = time.monotonic() + _WAIT_S
        while state.load_state(home) is None and time.monotonic() < deadline:
            time.sleep(0.05)
        up.send_signal(signal.SIGKILL)
    assert list_stack_processes(stack_id(home))
    result = foundry("down", home=home, **settings)
    assert result.returncode == 0
    assert re.search(r"^stopped \d+ processes$", result.stdout, re.MULTILINE)
    assert list_stack_processes(stack_id(home)) == []
    assert postgres.find_running_pid(home) is None


def test_6_no_disk(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOUNDRY_HOME", str(home))
    monkeypatch.setattr(paths, "_MIN_FREE_BYTES", 2**62)
    assert run(["up"]) == 1
    assert_one_sentence(
        capsys.readouterr().err, "no space is left", "free at least 5 GiB", "FOUNDRY_HOME"
    )
    assert list_stack_processes(stack_id(home)) == []


def test_7_an_old_python() -> None:
    code = (
        "import sys, runpy; sys.version_info = (3, 9, 2); "
        "runpy.run_path('foundry/install/bootstrap.py', run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert_one_sentence(result.stderr, "this is 3.9", "install python3.11")


def test_8_no_network_after_the_install(tmp_path: Path) -> None:
    (tmp_path / ".foundry-lock").write_text(stamp_text(light_build()))
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "foundry/install/bootstrap.py", "--light", "--venv", str(tmp_path)],
        env=child_environment(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_FIND_LINKS=""),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert time.monotonic() - began < 5


def test_9_down_twice(home: Path) -> None:
    for _ in range(2):
        result = foundry("down", home=home)
        assert (result.returncode, result.stdout) == (0, "nothing was running\n")


@pytest.mark.postgres
def test_10_the_home_deleted_while_up(home: Path) -> None:
    pid = postgres.start(home, child_environment(FOUNDRY_STACK_ID=stack_id(home)))
    server = psutil.Process(pid)
    shutil.rmtree(home)
    result = foundry("down", home=home)
    assert result.returncode == 0
    assert f"{home} was deleted while it ran: `foundry up` starts afresh" in result.stdout
    assert wait_until_gone([server], timeout_s=1) == []
    assert not runtime_dir(home).exists()
