"""Whatever a person has at hand leads to the row: an id, its beginning, a name, `last`."""

import json

import pytest

from foundry.cli.main import run
from tests.cli.conftest import Server
from tests.sdk.answers import ENDPOINT_ID, JOB_ID, endpoint, job

OTHER_ID = JOB_ID[:-1] + "9"


def _page(*rows: dict[str, object]) -> tuple[int, object]:
    return 200, {"data": list(rows), "next_cursor": None}


def _shown(capsys: pytest.CaptureFixture[str]) -> object:
    return json.loads(capsys.readouterr().out)["id"]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("last", "limit=1"),
        (JOB_ID[:13], f"ref={JOB_ID[:13]}&limit=6"),
        ("support-bot", "ref=support-bot&limit=6"),
    ],
)
def test_a_job_by_what_is_at_hand(
    server: type[Server], capsys: pytest.CaptureFixture[str], text: str, query: str
) -> None:
    server.answers["/jobs"] = _page(job("RUNNING"))
    assert run(["jobs", "show", text, "-o", "json"]) == 0
    assert _shown(capsys) == JOB_ID
    assert server.queries == [query]


def test_a_whole_id_is_asked_for_at_once(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers[f"/jobs/{JOB_ID}"] = (200, job("RUNNING"))
    assert run(["jobs", "show", JOB_ID, "-o", "json"]) == 0
    assert _shown(capsys) == JOB_ID


def test_of_several_jobs_for_a_model_the_newest_is_meant_and_named(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/jobs"] = _page(job("RUNNING", id=OTHER_ID), job("FAILED"))
    assert run(["jobs", "show", "support-bot", "-o", "json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["id"] == OTHER_ID
    assert f"{OTHER_ID} is the newest job for support-bot" in shown.err


def test_an_ambiguous_beginning_is_refused_with_the_ids(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/jobs"] = _page(job("RUNNING"), job("FAILED", id=OTHER_ID))
    assert run(["jobs", "cancel", JOB_ID[:8]]) == 6
    assert f"{JOB_ID}, {OTHER_ID}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "path", "says"),
    [
        ("jobs show nothing", "/jobs", "there is no job nothing: `foundry jobs list`"),
        ("jobs show last", "/jobs", "there are no jobs yet"),
        ("jobs show 0198f3", "/jobs", "the beginning of an id takes 8 characters"),
        ("endpoints show x", "/endpoints", "there is no endpoint x: `foundry endpoints list`"),
    ],
)
def test_what_is_not_there(
    server: type[Server], capsys: pytest.CaptureFixture[str], command: str, path: str, says: str
) -> None:
    server.answers[path] = _page()
    assert run(command.split()) == 3
    assert says in capsys.readouterr().err


def test_an_endpoint_by_its_name(server: type[Server], capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["/endpoints"] = _page(endpoint("RUNNING"))
    assert run(["endpoints", "show", "smol", "-o", "json"]) == 0
    assert _shown(capsys) == ENDPOINT_ID
    assert server.queries == ["ref=smol&limit=6"]


def test_no_jobs_in_a_state_is_not_no_jobs(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/jobs"] = _page()
    assert run(["jobs", "list", "--state", "failed"]) == 0
    assert run(["jobs", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "no jobs in state FAILED",
        "no jobs yet: foundry train sft --help",
    ]


def test_only_a_diloco_job_has_rounds(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/jobs"] = _page(job("SUCCEEDED"))
    assert run(["jobs", "rounds", "last"]) == 6
    assert "is sft: only `foundry train diloco` has rounds" in capsys.readouterr().err


def test_a_list_of_jobs_tells_how_far_they_are(
    server: type[Server], capsys: pytest.CaptureFixture[str]
) -> None:
    training = {"phase": "training", "step": 3, "total_steps": 70, "loss": 1.5}
    server.answers["/jobs"] = _page(
        job("RUNNING", progress=training),
        job("QUEUED", waiting_for="a GPU", id=OTHER_ID),
        job("SUCCEEDED", progress=training | {"step": 70}, finished_at="2026-01-02T03:04:05Z"),
    )
    assert run(["jobs", "list", "--limit", "2"]) == 0
    shown = capsys.readouterr()
    heading, first, second = shown.out.splitlines()
    assert "progress" in heading
    assert "training, step 3/70, loss 1.5000" in first
    assert "waiting for a GPU" in second
    assert shown.err == "these are the first 2: --limit shows more\n"
    assert run(["jobs", "list"]) == 0
    assert "  step 70/70, loss 1.5000  " in capsys.readouterr().out.splitlines()[3]
