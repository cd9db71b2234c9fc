"""Whether a running stack is restarted: what is told, what is asked, what is refused."""

import json
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer

from foundry.cli.output.console import Output, choose_exit_code
from foundry.cli.stack.restarting import approve_plan, list_interrupted_work, print_plan
from foundry.config import Settings, load_settings
from foundry.errors import InvalidRequest
from foundry.infra.embedded.paths import ensure_home
from foundry.infra.embedded.plan import Plan
from foundry.infra.embedded.state import StackState, save_state
from tests.cli.conftest import Server
from tests.sdk.answers import JOB_ID, job

_RESTART = Plan(
    changes=("this checkout has changed",),
    restarts=("ray", "gateway"),
    starts=("guard",),
    cost="requests in flight end with an error",
)
_LINES = [
    "plan: this checkout has changed",
    "plan: migrate the database, then restart ray, gateway",
    "plan: requests in flight end with an error",
    "plan: start guard",
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    ensure_home(tmp_path)
    return Settings(home=tmp_path)


def _endpoint(name: str, state: str) -> dict[str, object]:
    return {
        "id": str(uuid4()),
        "name": name,
        "model": "smol@1.0.0",
        "model_version_id": str(uuid4()),
        "desired": "running",
        "state": state,
        "app_name": f"engine-{name}",
        "revision": 1,
        "config": {},
        "config_generation": 1,
        "last_error": None,
        "progress": {},
        "created_by": "admin",
        "created_at": "2026-11-27T09:00:00Z",
        "updated_at": "2026-11-27T09:00:00Z",
    }


def _on_terminal(monkeypatch: pytest.MonkeyPatch, answer: bool | None) -> list[str]:
    """A user who gives this answer; None: there is no terminal."""
    asked: list[str] = []

    def confirm(text: str, **options: Any) -> bool:
        asked.append(text)
        assert answer is not None
        return answer

    monkeypatch.setattr(sys.stdin, "isatty", lambda: answer is not None)
    monkeypatch.setattr(typer, "confirm", confirm)
    return asked


def test_what_only_starts_is_not_asked_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = _on_terminal(monkeypatch, None)
    plan = Plan(starts=("postgres",))
    assert approve_plan(settings, plan, yes=False) is plan
    assert asked == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("answer", [True, False])
def test_on_a_terminal_a_restart_is_told_and_asked_for(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: bool,
) -> None:
    asked = _on_terminal(monkeypatch, answer)
    if answer:
        assert approve_plan(settings, _RESTART, yes=False) is _RESTART
    else:
        with pytest.raises(typer.Exit) as ended:
            approve_plan(settings, _RESTART, yes=False)
        assert ended.value.exit_code == 1
    assert asked == ["restart ray, gateway?"]
    told = capsys.readouterr().err.splitlines()
    assert told == [*_LINES, *([] if answer else ["nothing was changed"])]


def test_without_a_terminal_a_restart_needs_yes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = _on_terminal(monkeypatch, None)
    with pytest.raises(InvalidRequest) as caught:
        approve_plan(settings, _RESTART, yes=False)
    assert choose_exit_code(caught.value) == 2
    assert caught.value.message == (
        "this checkout has changed: ray, gateway must be restarted. "
        "`foundry up --yes` does it, `foundry up --plan` shows what that interrupts"
    )
    assert approve_plan(settings, _RESTART, yes=True) is _RESTART
    assert asked == []
    assert capsys.readouterr().err.splitlines() == _LINES * 2


def test_the_plan_names_what_runs(settings: Settings, server: type[Server]) -> None:
    url = load_settings().client.url
    assert url is not None
    # The fixture's key is for its server; the one that is asked is the running stack's.
    save_state(settings.home, StackState(url))
    rows = [_endpoint("a", "RUNNING"), _endpoint("b", "FAILED")]
    server.answers = {
        "/endpoints": (200, {"data": rows, "next_cursor": None}),
        "/jobs": (200, {"data": [job("RUNNING"), job("QUEUED")], "next_cursor": None}),
    }
    found = list_interrupted_work(settings, _RESTART)
    assert found == ["interrupts 1 running endpoint: a", f"interrupts 1 running job: {JOB_ID}"]
    assert list_interrupted_work(settings, Plan(starts=("guard",))) == []


def test_a_stack_that_does_not_answer_says_so(settings: Settings) -> None:
    save_state(settings.home, StackState("http://127.0.0.1:1"))
    assert list_interrupted_work(settings, _RESTART) == [
        "what runs there does not answer, so its endpoints and jobs are not known"
    ]


def test_the_plan_as_json(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(settings, _RESTART, Output.JSON)
    assert json.loads(capsys.readouterr().out) == {
        "changes": ["this checkout has changed"],
        "restarts": ["ray", "gateway"],
        "starts": ["guard"],
        "unreachable": [],
        "cost": "requests in flight end with an error",
        "interrupts": [],
        "closes": [],
    }
