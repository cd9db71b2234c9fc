"""A version is written name@version in bodies and queries, also where the path names the model."""

from pathlib import Path

import pytest

from tests.control.client import Control, with_models

pytestmark = pytest.mark.postgres


async def test_a_version_may_repeat_its_models_name(control: Control, tmp_path: Path) -> None:
    await with_models(control, tmp_path)
    body = {"version": "support-bot@0.1.0", "expected_version_id": None}
    made = await control.client.put("/models/support-bot/aliases/staging", json=body)
    assert (made.status_code, made.json()["version"]) == (200, "0.1.0")
    query = "versions=support-bot@0.1.0,staging"
    compared = await control.client.get(f"/models/support-bot/compare?{query}")
    found = [column["version"]["reference"] for column in compared.json()["data"]]
    assert found == ["support-bot@0.1.0", "support-bot@0.1.0"]
    other = {"version": "smol@0.1.0", "expected_version_id": None}
    refused = await control.client.put("/models/support-bot/aliases/other", json=other)
    assert refused.status_code == 400
    assert "smol@0.1.0" in refused.json()["error"]["message"]
