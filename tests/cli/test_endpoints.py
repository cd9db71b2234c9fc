"""`foundry deploy` and `foundry endpoints` as a user types them, with fixed answers."""

import io
from typing import Any

import pytest

from foundry.cli.main import run
from tests.cli.conftest import Server
from tests.sdk.answers import ENDPOINT_ID, JOB_ID, endpoint

LISTED = {"data": [endpoint("RUNNING")], "next_cursor": None}


@pytest.mark.parametrize(
    "command",
    ["deploy smol", "endpoints stop smol", "endpoints scale smol 2", "endpoints rollback smol 1"],
)
def test_a_limit_on_no_wait_is_a_conflict(
    server: type[Server], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run([*command.split(), "--no-wait", "--timeout-s", "5"]) == 6
    assert "--timeout-s would be ignored: --no-wait does not wait" in capsys.readouterr().err
    assert server.asked == []


def test_other_options_of_one_that_exists_are_a_conflict(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"message": "the endpoint smol exists already", "type": "x", "code": "conflict"}
    server.answers["/endpoints"] = (409, {"error": error | {"param": None}})
    assert run(["deploy", "smol", "--max-model-len", "64"]) == 6
    assert run(["endpoints", "create", "smol", "--max-model-len", "64"]) == 6
    assert capsys.readouterr().err.count("error: the endpoint smol exists already") == 2


def deployed(server: type[Server], command: str, **fields: Any) -> None:
    answer = endpoint("RUNNING", **fields)
    server.answers["/endpoints"] = (200, answer)
    server.answers[f"/endpoints/{ENDPOINT_ID}"] = (200, answer)
    assert run(command.split()) == 0


def test_a_deploy_of_what_runs_says_so_and_what_is_next(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    deployed(server, "deploy smol", note="the endpoint smol is RUNNING already")
    shown = capsys.readouterr().err
    assert "the endpoint smol is RUNNING already\n" in shown
    assert shown.endswith('next: foundry chat smol "Hello"\n')


@pytest.mark.parametrize(
    ("command", "step"),
    [
        ("deploy smol", 'foundry chat smol "Hello"'),
        ("deploy smol --name second", 'foundry chat second "Hello"'),
        ("deploy bot --name second", 'foundry chat bot "Hello"'),
        ("deploy smol --no-wait", "foundry endpoints show smol"),
    ],
)
def test_the_next_step_can_be_followed(
    server: type[Server], capsys: pytest.CaptureFixture[str], command: str, step: str
) -> None:
    deployed(server, command)
    assert capsys.readouterr().err.splitlines()[-1] == f"next: {step}"


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ((), f"next: foundry budsim explain {JOB_ID}\n      foundry deploy smol@1.0.0\n"),
        (("-o", "json"), ""),
    ],
)
def test_after_targets_the_answer_is_reviewed_and_deployed(
    server: type[Server],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    form: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"max_lora_rank": 256}'))
    server.answers["/endpoints"] = (200, LISTED)
    answer = endpoint("RUNNING", recommendation_id=JOB_ID)
    server.answers[f"/endpoints/{ENDPOINT_ID}/config"] = (200, answer)
    assert run(["endpoints", "configure", "smol", "-", *form]) == 0
    assert capsys.readouterr().err == told


def test_options_come_through_a_pipe(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"max_lora_rank": 256}'))
    server.answers["/endpoints"] = (200, LISTED)
    server.answers[f"/endpoints/{ENDPOINT_ID}/config"] = (200, endpoint("RUNNING"))
    assert run(["endpoints", "configure", "smol", "-"]) == 0
    assert server.asked[-1][1]["max_lora_rank"] == 256


def test_the_step_after_configuring_deploys_that_endpoint(
    server: type[Server], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"max_lora_rank": 256}'))
    second = endpoint("RUNNING", name="second")
    server.answers["/endpoints"] = (200, {"data": [second], "next_cursor": None})
    server.answers[f"/endpoints/{ENDPOINT_ID}/config"] = (200, second)
    assert run(["endpoints", "configure", "second", "-"]) == 0
    assert (
        capsys.readouterr().err.splitlines()[-1].endswith("foundry deploy smol@1.0.0 --name second")
    )
