"""The example in the package's docstring runs as it stands, against answers like a server's."""

import json
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from foundry import sdk
from foundry.config import Settings
from foundry.sdk import Foundry
from tests.sdk.answers import AT, ENDPOINT_ID, JOB_ID, VERSION_ID, endpoint, job

DATASET = {
    "id": VERSION_ID,
    "name": "support",
    "number": 1,
    "reference": "support@1",
    "digest": "0" * 64,
    "kind": "prompt_completion",
    "train_rows": 9,
    "eval_rows": 1,
    "duplicate_rows": 0,
    "bad_rows": 0,
    "options": {},
    "files": [],
    "created_by": "admin",
    "created_at": AT,
}
VERSION: dict[str, Any] = dict.fromkeys(
    (
        "parent_version_id",
        "base_version_id",
        "job_id",
        "dataset_version_id",
        "architecture",
        "parameter_count",
        "context_length",
        "lora_rank",
        "lora_targets",
        "config_digest",
        "code_ref",
    )
) | {
    "id": VERSION_ID,
    "model_id": VERSION_ID,
    "name": "support-bot",
    "version": "0.1.0",
    "reference": "support-bot@0.1.0",
    "kind": "adapter",
    "stage": "ready",
    "relation": "sft",
    "digest": "0" * 64,
    "size_bytes": 1,
    "created_by": "admin",
    "created_at": AT,
}
METRIC = {"name": "eval_loss", "step": 3, "value": 0.5, "at": AT}
CHUNK = {"choices": [{"delta": {"content": "Click on it."}}]}
ANSWERS: dict[str, object] = {
    "POST /api/datasets/support/versions": DATASET,
    "POST /api/jobs/sft": job("QUEUED"),
    f"GET /api/jobs/{JOB_ID}": job("SUCCEEDED", result={"reference": "support-bot@0.1.0"}),
    "POST /api/endpoints": endpoint("PENDING"),
    f"GET /api/endpoints/{ENDPOINT_ID}": endpoint("RUNNING"),
    "GET /api/models/support-bot/versions": {"data": [VERSION], "next_cursor": None},
    "GET /api/models/support-bot/versions/0.1.0/metrics": {"data": [METRIC]},
}


def answer(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/v1/chat/completions":
        return httpx.Response(200, text=f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n")
    return httpx.Response(200, json=ANSWERS[f"{request.method} {request.url.path}"])


def read_example() -> str:
    lines = (sdk.__doc__ or "").splitlines()
    first = next(number for number, line in enumerate(lines) if "import Foundry" in line)
    last = max(number for number, line in enumerate(lines) if line.startswith("    "))
    return textwrap.dedent("\n".join(lines[first : last + 1]))


def test_the_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "support.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    transport = httpx.MockTransport(answer)
    settings = Settings(home=tmp_path)
    monkeypatch.setattr(sdk, "Foundry", partial(Foundry, settings=settings, transport=transport))
    example = read_example()
    assert len(example.splitlines()) <= 20
    exec(compile(example, "example", "exec"), {})
    assert capsys.readouterr().out == (
        "SUCCEEDED {'reference': 'support-bot@0.1.0'}\n"
        f"Click on it.support-bot@0.1.0 {[_metric()]}\n"
    )


def _metric() -> object:
    from foundry.catalog.registry.schemas import MetricOut

    return MetricOut.model_validate(METRIC)
