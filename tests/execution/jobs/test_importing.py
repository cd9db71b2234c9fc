"""Imports that are refused at submission, and the bases of adapters; through the routes."""

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.pool import QueuePool

from foundry.catalog.registry.domain import VersionSpec
from foundry.execution.jobs import importing
from foundry.execution.jobs.importing import ImportRules
from foundry.infra.database import Database
from foundry.infra.hub_mirror import HubMirror
from tests.catalog.registry.files import adapter_dir, base_dir
from tests.control.client import Control, register, running_control, with_models

pytestmark = pytest.mark.postgres


@pytest.fixture
async def control(database: Database, tmp_path: Path) -> AsyncIterator[Control]:
    async with running_control(database, tmp_path / "objects") as running:
        yield running


async def submit(
    control: Control, source: object, status: int = 201, **fields: object
) -> dict[str, Any]:
    body = {"name": "mine", "source": str(source), **fields}
    answer = await control.client.post("/jobs/import", json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found if status < 400 else found["error"]


def configure(folder: Path, **change: object) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return folder


async def test_a_directory_is_queued_as_it_is_spelled(control: Control, tmp_path: Path) -> None:
    folder = base_dir(tmp_path / "my model?")
    (folder / "LICENSE").write_text("MIT")
    job = await submit(control, folder)
    assert job["spec"] == {"model": "mine", "source": folder.as_uri()}
    again = await submit(control, folder.as_uri(), 200)
    assert again["id"] == job["id"]
    base_dir(folder, seed=1)
    assert (await submit(control, folder))["id"] != job["id"], "other files, another import"


async def test_all_that_is_wrong_is_told_before_a_job_exists(
    control: Control, tmp_path: Path
) -> None:
    folder = base_dir(tmp_path / "model")
    (folder / "config.json").write_text('{"architectures": ["GPT9Model"]}')
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs")
    error = await submit(control, folder, 400)
    assert error["code"] == "invalid_artifact"
    for part in ("cannot be imported", "GPT9Model", "no tokenizer", "git lfs pull"):
        assert part in error["message"]
    assert (await control.client.get("/jobs")).json()["data"] == []


async def test_a_directory_that_is_elsewhere_is_explained(control: Control) -> None:
    error = await submit(control, "/home/me/no-such-model", 400)
    assert error["message"] == (
        "there is no directory /home/me/no-such-model on the server: an import reads the server's "
        "own disks, so copy the model there first"
    )


async def test_hub_sources_need_a_mirror(control: Control) -> None:
    error = await submit(control, "hf:ORG/Tiny", 400)
    assert "set FOUNDRY_IMPORTS__HUGGING_FACE_MIRROR=https://…" in error["message"]


async def test_an_adapter_finds_the_base_that_it_names(control: Control, tmp_path: Path) -> None:
    base, _ = await with_models(control, tmp_path)
    folder = configure(adapter_dir(tmp_path / "x"), base_model_name_or_path="ORG/Smol")
    job = await submit(control, folder)
    assert job["spec"] == {
        "model": "mine",
        "source": folder.as_uri(),
        "kind": "adapter",
        "base": "smol@0.1.0",
        "base_version_id": str(base.id),
    }
    named = await submit(control, folder, 200, base="smol@0.1.0")
    assert named["id"] == job["id"]


@pytest.mark.parametrize(
    ("change", "fields", "status", "says"),
    [
        ({}, {}, 400, "the adapter names no base: say which version it was trained from with"),
        (
            {"base_model_name_or_path": "ORG/Llama-9"},
            {},
            400,
            "was trained from 'ORG/Llama-9', and no model here is called so: say which",
        ),
        ({}, {"base": "none"}, 404, "the model none does not exist"),
        ({}, {"base": "support-bot"}, 400, "support-bot@0.1.0 is an adapter, not a base"),
        ({"alpha_pattern": {"q_proj": 1}}, {"base": "smol"}, 400, "sets alpha_pattern, which"),
        ({"use_dora": True, "bias": "all"}, {"base": "smol"}, 400, "sets bias, use_dora, which"),
        ({"modules_to_save": ["lm_head"]}, {"base": "smol"}, 400, "sets modules_to_save, which"),
        ({"r": 3}, {"base": "smol"}, 400, "does not fit rank 3"),
        ({}, {"base": "smol", "name": "smol"}, 409, "smol holds versions of kind base"),
    ],
)
async def test_an_adapter_that_cannot_be_served_is_refused(
    control: Control,
    tmp_path: Path,
    change: dict[str, object],
    fields: dict[str, object],
    status: int,
    says: str,
) -> None:
    await with_models(control, tmp_path)
    folder = configure(adapter_dir(tmp_path / "x"), **change)
    assert says in (await submit(control, folder, status, **fields))["message"]


async def test_a_rank_that_no_endpoint_serves_is_refused(control: Control, tmp_path: Path) -> None:
    await with_models(control, tmp_path)
    folder = adapter_dir(tmp_path / "x", rank=96)
    error = await submit(control, folder, 400, base="smol")
    assert (error["param"], error["message"]) == (
        "source",
        "the rank of the adapter is 96, but a new endpoint of smol@0.1.0 would serve adapters up "
        "to rank 64: train with rank 64 or less, or first make one with `foundry endpoints create "
        "smol@0.1.0 --max-lora-rank 128`",
    )
    made = {"model": "smol", "config": {"max_lora_rank": 128}}
    assert (await control.client.post("/endpoints", json=made)).status_code == 201
    await submit(control, folder, 201, base="smol")


async def test_an_adapter_of_another_base_is_refused(control: Control, tmp_path: Path) -> None:
    shape: dict[str, object] = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}
    for name, change in (("wide", {"hidden_size": 8}), ("fits", {"hidden_size": 4})):
        folder = base_dir(tmp_path / name)
        (folder / "config.json").write_text(json.dumps({**shape, **change}))
        await register(control, VersionSpec(name, "base", "import"), folder)
    folder = adapter_dir(tmp_path / "x")
    error = await submit(control, folder, 400, base="wide")
    assert "the adapter does not fit wide@0.1.0" in error["message"]
    assert "lora_A.weight is 4 wide, and the base's hidden size is 8" in error["message"]
    assert (await submit(control, folder, base="fits"))["spec"]["base"] == "fits@0.1.0"


async def test_a_base_that_may_be_one_of_two_has_to_be_named(
    control: Control, tmp_path: Path
) -> None:
    for name in ("smol", "org-smol"):
        await register(control, VersionSpec(name, "base", "import"), base_dir(tmp_path / name))
    folder = configure(adapter_dir(tmp_path / "x"), base_model_name_or_path="/models/org/smol")
    error = await submit(control, folder, 400)
    assert "which may be org-smol@0.1.0 or smol@0.1.0" in error["message"]


async def test_a_base_for_a_whole_model_would_be_ignored(control: Control, tmp_path: Path) -> None:
    await with_models(control, tmp_path)
    for source in ("bundled:smollm2-135m", base_dir(tmp_path / "x")):
        error = await submit(control, source, 409, base="smol")
        assert "is a whole model, so a base would be ignored" in error["message"]
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "README.md").write_text("")
    error = await submit(control, tmp_path / "y", 400, base="smol")
    assert (
        "adapter_config.json is missing; adapter_model.safetensors is missing" in (error["message"])
    )


async def test_a_disk_that_hangs_is_left_to_the_worker(
    control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_LOOK_S", 0.0)
    job = await submit(control, tmp_path / "anything")
    assert job["state"] == "QUEUED"


def serve_repository(control: Control, folder: Path) -> None:
    """As the server's mirror, whatever the repository is called; without weights."""

    def answer(request: httpx.Request) -> httpx.Response:
        if "/None/" in request.url.path:
            return httpx.Response(404)
        if request.url.path.startswith("/api/"):
            siblings = [{"rfilename": path.name, "size": 1} for path in folder.iterdir()]
            return httpx.Response(200, json={"sha": "c0ffee", "siblings": siblings})
        return httpx.Response(
            200, content=(folder / request.url.path.rpartition("/")[2]).read_bytes()
        )

    mirror = HubMirror("http://mirror.test", None, httpx.MockTransport(answer), pause_s=0)
    rules: ImportRules = control.app.state.import_rules
    control.app.state.import_rules = replace(rules, mirror=mirror)


async def test_a_repository_of_the_mirror_is_looked_at(control: Control, tmp_path: Path) -> None:
    folder = base_dir(tmp_path / "model")
    serve_repository(control, folder)
    job = await submit(control, "hf:ORG/Tiny")
    assert job["spec"] == {"model": "mine", "source": "hf:ORG/Tiny@c0ffee"}
    assert (await submit(control, "hf:ORG/Tiny@main", 200))["id"] == job["id"]
    missing = await submit(control, "hf:ORG/None", 404)
    assert "does not show ORG/None" in missing["message"]
    (folder / "config.json").write_text('{"architectures": ["GPT9Model"]}')
    (folder / "model.safetensors").unlink()
    error = await submit(control, "hf:ORG/Tiny@v2", 400)
    assert "hf:ORG/Tiny@v2 cannot be imported: there is no .safetensors" in error["message"]
    assert "architecture GPT9Model" in error["message"]


async def test_an_adapter_of_the_mirror_has_a_base(control: Control, tmp_path: Path) -> None:
    await with_models(control, tmp_path)
    folder = configure(adapter_dir(tmp_path / "x"), base_model_name_or_path="ORG/smol")
    serve_repository(control, folder)
    assert (await submit(control, "hf:ORG/Adapter"))["spec"]["base"] == "smol@0.1.0"
    shutil.rmtree(folder)
    serve_repository(control, configure(adapter_dir(folder), use_dora=True))
    assert "use_dora" in (await submit(control, "hf:ORG/Other", 400, base="smol"))["message"]


async def test_no_transaction_waits_for_a_disk_or_a_mirror(
    control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    read, pool = importing._read_directory, control.database._engine.pool
    assert isinstance(pool, QueuePool)

    def count_connections(*arguments: Any) -> Any:
        held.append(pool.checkedout())
        return read(*arguments)

    monkeypatch.setattr(importing, "_read_directory", count_connections)
    await submit(control, base_dir(tmp_path / "model"))
    assert held == [0]


async def test_disks_that_hang_keep_nobody_else_waiting(
    control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = threading.Event()
    monkeypatch.setattr(importing, "_LOOK_S", 0.2)
    monkeypatch.setattr(importing, "_read_directory", lambda *arguments: back.wait(30))
    try:
        for number in range(4):
            job = await submit(control, tmp_path / str(number), name=f"m{number}")
            assert job["state"] == "QUEUED"
        # Threads of the application, which serve everything else, are none of those.
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), 5) == 7
    finally:
        back.set()
