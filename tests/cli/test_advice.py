"""What commands tell beside their result: what was so already, and what to type next."""

import json
from typing import Any

import pytest

from foundry.cli.main import run
from tests.cli.conftest import Server
from tests.sdk.answers import JOB_ID, VERSION_ID, endpoint, job

SFT = "train sft --base smol --dataset support@1 --name bot"


def trained(method: str, **fields: Any) -> dict[str, object]:
    spec = {"base_version_id": VERSION_ID, "config": {"method": {"kind": method}}}
    result = {"model": "bot@0.1.0", "metrics": {"loss": 0.5}}
    return job("SUCCEEDED", spec=spec, result=result, **fields)


def serve(server: type[Server], ended: dict[str, object], *endpoints: dict[str, object]) -> None:
    server.answers["/jobs/sft"] = (201, ended)
    server.answers[f"/jobs/{JOB_ID}"] = (200, ended)
    server.answers["/endpoints"] = (200, {"data": list(endpoints), "next_cursor": None})


@pytest.mark.parametrize(
    ("method", "endpoints", "step"),
    [
        ("lora", [endpoint("RUNNING")], 'foundry chat bot@0.1.0 "Hello"'),
        ("lora", [endpoint("DEGRADED")], 'foundry chat bot@0.1.0 "Hello"'),
        ("lora", [endpoint("STOPPED")], "foundry deploy bot@0.1.0"),
        ("lora", [endpoint("RUNNING", model_version_id=JOB_ID)], "foundry deploy bot@0.1.0"),
        ("lora", [], "foundry deploy bot@0.1.0"),
        ("full", [endpoint("RUNNING")], "foundry deploy bot@0.1.0"),
    ],
)
def test_the_advice_after_training_fits_the_case(
    server: type[Server],
    capsys: pytest.CaptureFixture[str],
    method: str,
    endpoints: list[dict[str, object]],
    step: str,
) -> None:
    serve(server, trained(method), *endpoints)
    assert run(SFT.split()) == 0
    assert capsys.readouterr().err.splitlines()[-1] == f"next: {step}"


def test_an_imported_adapter_of_a_base_that_runs_needs_no_deploy(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"model": "peft@0.1.0", "metrics": {}}
    made = job("SUCCEEDED", kind="import", spec={"base_version_id": VERSION_ID}, result=result)
    server.answers["/jobs/import"] = (201, made)
    server.answers[f"/jobs/{JOB_ID}"] = (200, made)
    server.answers["/endpoints"] = (200, {"data": [endpoint("RUNNING")], "next_cursor": None})
    assert run(["models", "import", "peft", "file:///adapters/peft"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == 'next: foundry chat peft@0.1.0 "Hello"'


def test_who_may_not_look_at_endpoints_is_told_to_deploy(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(server, trained("lora"))
    error = {"message": "no", "type": "x", "param": None, "code": "permission_denied"}
    server.answers["/endpoints"] = (403, {"error": error})
    assert run(SFT.split()) == 0
    assert capsys.readouterr().err.endswith("next: foundry deploy bot@0.1.0\n")


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_a_training_that_was_done_before_is_no_new_one(
    server: type[Server], capsys: pytest.CaptureFixture[str], detach: list[str]
) -> None:
    note = f"already trained as bot@0.1.0 by job {JOB_ID}; --force trains again"
    serve(server, trained("full", note=note))
    assert run([*SFT.split(), *detach]) == 0
    assert capsys.readouterr().err.splitlines()[0] == note


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (SFT, "/jobs/sft"),
        ("models import bundled:smollm2-135m", "/jobs/import"),
        (f"jobs resume {JOB_ID}", f"/jobs/{JOB_ID}/resume"),
    ],
)
def test_what_is_left_behind_is_told_by_its_id_and_how_to_follow_it(
    server: type[Server], capsys: pytest.CaptureFixture[str], command: str, path: str
) -> None:
    server.answers[f"/jobs/{JOB_ID}"] = (200, job("FAILED"))
    server.answers[path] = (200, job("QUEUED"))
    assert run([*command.split(), "--detach"]) == 0
    shown = capsys.readouterr()
    assert shown.out.split() == ["id", JOB_ID]
    assert shown.err.endswith(f"next: foundry jobs watch {JOB_ID}\n")
    assert run([*command.split(), "--detach", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "QUEUED"


def test_a_cancel_that_was_asked_before_says_so(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    note = f"job {JOB_ID} is being cancelled already"
    running = job("RUNNING", cancel_requested=True)
    server.answers[f"/jobs/{JOB_ID}"] = (200, running)
    server.answers[f"/jobs/{JOB_ID}/cancel"] = (200, running | {"note": note})
    assert run(["jobs", "cancel", JOB_ID]) == 0
    assert note in capsys.readouterr().err
    error = {"message": "it has ended", "type": "x", "param": None, "code": "conflict"}
    server.answers[f"/jobs/{JOB_ID}/cancel"] = (409, {"error": error})
    assert run(["jobs", "cancel", JOB_ID]) == 6


def test_a_document_is_not_followed(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["jobs", "logs", JOB_ID, "--follow", "--output", "json"]) == 6
    assert "leave one of them out" in capsys.readouterr().err
    assert server.asked == []


@pytest.mark.parametrize(("steps", "told"), [(3, True), (20, False)])
def test_a_training_of_few_steps_says_that_it_was(
    server: type[Server], capsys: pytest.CaptureFixture[str], steps: int, told: bool
) -> None:
    ended = trained("lora")
    ended["spec"]["config"] |= {"batch_size": 8, "epochs": steps}  # type: ignore[index]
    ended["result"]["metrics"]["examples"] = 8  # type: ignore[index]
    serve(server, ended)
    assert run(SFT.split()) == 0
    assert (f"it learnt for {steps} steps only" in capsys.readouterr().err) is told


@pytest.mark.parametrize(
    ("code", "then"),
    [
        ("invalid_artifact", "; mend that and submit it anew"),
        ("engine_failed", f", `foundry jobs resume {JOB_ID}` tries again from its last checkpoint"),
    ],
)
def test_a_failure_is_resumed_only_where_that_can_help(
    server: type[Server], capsys: pytest.CaptureFixture[str], code: str, then: str
) -> None:
    failed = job("FAILED", error={"code": code, "message": "it broke"})
    serve(server, failed)
    assert run(SFT.split()) != 0
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: job {JOB_ID} failed: it broke; `foundry jobs logs {JOB_ID}` shows its output{then}"
    )
