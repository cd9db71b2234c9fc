"""An import is asked for in one way, whichever resource it is asked of."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.sdk.answers import client, job


@pytest.mark.parametrize("method", ["jobs.submit_import", "models.import_"])
@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("bundled:smollm2-135m", "bundled:smollm2-135m"),
        ("hf:ORG/Tiny-1B@v2", "hf:ORG/Tiny-1B@v2"),
        ("file:///models/x", "file:///models/x"),
        ("/models/a/../a b", "file:///models/a%20b"),
        (Path("/models/hf:x"), "file:///models/hf%3Ax"),
    ],
)
def test_an_import_tells_everything(
    tmp_path: Path, method: str, source: str | Path, told: str
) -> None:
    sent: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/jobs/import"
        sent.append(json.loads(request.content))
        return httpx.Response(201, json=job("QUEUED", kind="import"))

    resource, name = method.split(".")
    with client(answer, tmp_path) as foundry:
        submit = getattr(getattr(foundry, resource), name)
        assert submit("mine", source, base="smol", force=True, priority=3).kind == "import"
        submit("mine", source)
    asked = {"name": "mine", "source": told}
    assert sent == [
        asked | {"base": "smol", "force": True, "priority": 3},
        asked | {"base": None, "force": False, "priority": 0},
    ]
