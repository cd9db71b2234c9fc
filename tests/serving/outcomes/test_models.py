"""Versions of the predictor: what is active answers, on a real PostgreSQL and object store."""

import json
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from foundry.engines.budsim import packing
from foundry.engines.budsim.packing import shipped_scores
from foundry.infra.database import Database
from foundry.serving.recommendations import trained
from tests.control.client import Control, running_control
from tests.serving.recommendations.questions import LARGE, WORKLOAD, body

pytest.importorskip("foundry.engines.budsim.predictor")
pytestmark = pytest.mark.postgres
QUESTION = {
    "config": LARGE,
    "workload": WORKLOAD,
    "configurations": [{"gpu": "nvidia-h100-80gb"}],
}
BETTER = {"e": [20.0, 15.0]}


@pytest.fixture
async def control(database: Database, tmp_path: Path) -> AsyncIterator[Control]:
    trained._loaded.clear()
    async with running_control(database, tmp_path / "objects") as running:
        yield running


@pytest.fixture
def packed(tmp_path: Path) -> Callable[[str], bytes]:
    """A model unlike the shipped one: physics alone predicts its TPOT."""

    def make(note: str) -> bytes:
        folder = tmp_path / note
        copytree(Path(str(files("foundry.engines.budsim"))) / "models" / "1", folder)
        meta = json.loads((folder / "meta.json").read_text())
        target = meta["targets"]["tpot"]
        target["blends"] = {key: {"step.prior": 1.0} for key in target["blends"]}
        meta["card"] = {"note": note}
        (folder / "meta.json").write_text(json.dumps(meta))
        return packing.pack(folder)

    return make


async def answered(control: Control, path: str, expected: int = 200, **sent: Any) -> Any:
    answer = await control.client.post(f"/budsim/{path}", **sent)
    assert answer.status_code == expected, answer.text
    return answer.json()


async def registered(
    control: Control, version: str, data: bytes, factor: float, site_cv: object = None
) -> dict[str, Any]:
    digest = (await answered(control, "artifacts", 201, content=data))["digest"]
    assert digest == packing.digest(data)
    cv = {split: error * factor for split, error in shipped_scores().items()}
    row = {"version": version, "digest": digest, "cv": cv, "site_cv": site_cv or {}}
    found: dict[str, Any] = await answered(control, "models", 201, json=row)
    return found


async def predicted(control: Control) -> float:
    found = await answered(control, "predict", json=QUESTION)
    point: float = found["data"][0]["tpot_ms"]["point"]
    return point


async def recommended(control: Control) -> dict[str, Any]:
    found: dict[str, Any] = await answered(
        control, "recommendations", 202, params={"wait": 30}, json=body()
    )
    assert found["state"] == "DONE", found
    return found


async def test_the_active_model_answers(control: Control, packed: Callable[[str], bytes]) -> None:
    before, first = await predicted(control), await recommended(control)
    row = await registered(control, "2", packed("one"), 1.01, BETTER)
    assert (row["status"], row["reasons"]) == (
        "shadow",
        ["cross-validation improves by -1.0%; 2 % is needed"],
    )
    assert await predicted(control) == before
    assert (await answered(control, "models/2/promote"))["status"] == "active"
    after, second = await predicted(control), await recommended(control)
    assert abs(after / before - 1) > 0.02
    assert second["id"] != first["id"]
    assert second["predictor_version"] == f"2@{row['digest'][:8]}"
    assert second["result"]["digests"]["model"] == second["predictor_version"]
    # Back to the shipped one: its old answer counts again.
    await answered(control, "models/0/promote")
    assert await predicted(control) == before
    assert (await recommended(control))["id"] == first["id"]


async def test_a_search_that_outlasts_its_process_uses_the_model_that_it_began_with(
    control: Control, packed: Callable[[str], bytes]
) -> None:
    await registered(control, "2", packed("one"), 0.9, BETTER)
    expected = await predicted(control)
    # Another process has not loaded it yet.
    trained._loaded.clear()
    assert (await recommended(control))["predictor_version"].startswith("2@")
    trained._loaded.clear()
    assert await predicted(control) == expected


async def test_a_model_is_promoted_only_if_it_is_better(
    control: Control, packed: Callable[[str], bytes]
) -> None:
    data = packed("one")
    better = await registered(control, "2", data, 0.9, BETTER)
    assert (better["status"], better["reasons"]) == ("active", [])
    nothing = await registered(control, "3", data, 0.5)
    assert nothing["status"] == "shadow"
    assert nothing["reasons"] == ["no deployment of this site has measured windows"]
    same = await registered(control, "2", data, 0.9, BETTER)
    assert same["version"] == "2"
    listed = (await control.client.get("/budsim/models")).json()["data"]
    assert {row["version"]: row["status"] for row in listed} == {
        "3": "shadow",
        "2": "active",
        "0": "retired",
    }


async def test_what_cannot_be_a_model_is_refused(
    control: Control, packed: Callable[[str], bytes]
) -> None:
    row = {"version": "2", "digest": "0" * 64, "cv": {}}
    missing = await answered(control, "models", 404, json=row)
    assert "upload it first" in missing["error"]["message"]
    refused = await answered(control, "artifacts", 400, content=b"no archive")
    assert "no trained predictor" in refused["error"]["message"]
    found = await registered(control, "2", packed("one"), 1.0)
    await answered(control, "models", 409, json={**row, "version": "0", "digest": found["digest"]})
    other = (await answered(control, "artifacts", 201, content=packed("two")))["digest"]
    await answered(control, "models", 409, json={**row, "digest": other})
    await answered(control, "models/9/promote", 404)


async def test_a_damaged_model_says_how_to_go_back(
    control: Control, packed: Callable[[str], bytes]
) -> None:
    found = await registered(control, "2", packed("one"), 0.9, BETTER)
    key = trained.object_key(found["digest"])
    await control.objects.delete(key)
    await control.objects.put_bytes(key, b"damaged")
    answer = await control.client.post("/budsim/predict", json=QUESTION)
    assert "`foundry budsim promote 0`" in answer.json()["error"]["message"]
    await answered(control, "models/0/promote")
    assert await predicted(control) > 0
