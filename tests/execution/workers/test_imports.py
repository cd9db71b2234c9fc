"""Imports of directories and of a mirror, on a real PostgreSQL; no cluster."""

import asyncio
import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text

from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.registrar import Registrar
from foundry.catalog.registry.service import Registry
from foundry.config import Settings
from foundry.errors import DiskFull, InvalidArtifact, InvalidRequest, Unavailable
from foundry.execution.jobs.domain import Phase
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.queue import load
from foundry.execution.jobs.service import Job
from foundry.execution.workers import imports, single
from foundry.execution.workers.attempt import Attempt
from foundry.execution.workers.imports import ImportWorker
from foundry.execution.workers.messages import Publication
from foundry.execution.workers.single import _imported_version
from foundry.governance.audit.service import AuditTrail
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.hub_mirror import HubMirror
from tests.catalog.registry.files import adapter_dir, base_dir
from tests.execution.jobs.test_leases import CALLER, logs, start, submit

pytestmark = pytest.mark.postgres


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings.model_validate(
        {
            "home": tmp_path / "home",
            "database": {"url": database_url},
            "imports": {"hugging_face_mirror": "http://mirror.test"},
        }
    )


@pytest.fixture
async def publication(database: Database, settings: Settings) -> Publication:
    job = await submit(database)
    opened = await start(database, job.id)
    assert opened is not None
    lease, claimed = await JobLease.claim(database, job.id, opened.submission_id)
    spec = VersionSpec("mine", "base", "import", job_id=job.id)
    return Attempt(settings, database, lease, claimed).publication(spec)


def mirror_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Serve `folder` as the mirror's repository. Returns what is asked for."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/resolve/c0ffee/")[2]
        if request.url.path.startswith("/api/"):
            siblings = [
                {"rfilename": path.name, "size": path.stat().st_size} for path in folder.iterdir()
            ]
            return httpx.Response(200, json={"sha": "c0ffee", "siblings": siblings})
        asked.append(name)
        return httpx.Response(200, content=(folder / name).read_bytes())

    use_mirror(answer, monkeypatch)
    return asked


def use_mirror(
    answer: Callable[[httpx.Request], httpx.Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = HubMirror("http://mirror.test", None, httpx.MockTransport(answer), pause_s=0)
    monkeypatch.setattr(HubMirror, "from_settings", lambda settings: made)


async def files_of(database: Database, version_id: UUID) -> list[str]:
    async with database.begin() as db:
        registry = Registry(db, AuditTrail(db, CALLER, "test"), CALLER)
        return [file.path for file in (await registry.manifest(version_id)).files]


async def test_a_directory_is_imported_and_what_was_left_out_is_told(
    database: Database, settings: Settings, publication: Publication, tmp_path: Path
) -> None:
    folder = base_dir(tmp_path / "model")
    for name in ("LICENSE", ".gitattributes", "pytorch_model.bin"):
        (folder / name).write_bytes(b"x")
    worker = ImportWorker(settings)
    imported = await worker.run(folder.as_uri(), publication)
    assert imported.published is not None and not imported.stopped
    assert imported.published.reference == "mine@0.1.0"
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    assert await files_of(database, imported.published.version_id) == names
    assert imported.left_out == (".gitattributes", "LICENSE", "pytorch_model.bin")
    told = [report.phase for report in await worker.progress(0)]
    assert told == [
        "left out, because no engine reads it: .gitattributes, LICENSE, pytorch_model.bin",
        "reading the files",
    ]
    assert (await worker.pulse()).phase is Phase.PUBLISH
    assert list(settings.home.glob("import-*")) == []
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, *imported.left_out])


async def test_an_adapter_is_imported_with_its_base(
    database: Database, settings: Settings, publication: Publication, tmp_path: Path
) -> None:
    registrar = Registrar(database, DirectoryStore(settings.home / "objects"), CALLER, "test")
    base = await registrar.register(VersionSpec("smol", "base", "import"), base_dir(tmp_path / "b"))
    async with database.begin() as db:
        job = await db.get_one(type(await submit(database, "other")), publication.job_id)
        job.spec = {"model": "mine", "base_version_id": str(base.id)}
        spec = _imported_version(job)
    assert (spec.kind, spec.base_version_id, spec.parent_version_id) == ("adapter", base.id, None)
    folder = adapter_dir(tmp_path / "adapter")
    (folder / "README.md").write_text("# PEFT")
    given = Publication(
        publication.tenant_id,
        publication.project_id,
        publication.job_id,
        publication.fence,
        spec,
    )
    imported = await ImportWorker(settings).run(folder.as_uri(), given)
    assert imported.published is not None and imported.left_out == ("README.md",)
    async with database.begin() as db:
        registry = Registry(db, AuditTrail(db, CALLER, "test"), CALLER)
        lineage = await registry.lineage("mine", "0.1.0")
    (edge,) = lineage.edges
    assert (edge.parent_id, edge.relation) == (base.id, "base")


async def test_a_repository_of_the_mirror_is_fetched_without_what_no_engine_reads(
    database: Database,
    settings: Settings,
    publication: Publication,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = base_dir(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / "consolidated.safetensors").write_bytes(b"x")
    asked = mirror_of(folder, monkeypatch)
    worker = ImportWorker(settings)
    imported = await worker.run("hf:ORG/Tiny", publication)
    assert imported.published is not None
    assert asked == ["config.json", "tokenizer.json", "model.safetensors"]
    assert imported.left_out == ("consolidated.safetensors", "pytorch_model.bin")
    assert (await worker.pulse()).marker[1] == sum((folder / name).stat().st_size for name in asked)
    assert list(settings.home.glob("import-*")) == []


async def test_absent_shards_are_told_before_the_others_are_fetched(
    settings: Settings,
    publication: Publication,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = base_dir(tmp_path / "model")
    shards = {"a": "model-1.safetensors", "b": "model.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    asked = mirror_of(folder, monkeypatch)
    with pytest.raises(InvalidArtifact, match=r"index.json names model-1.safetensors, which are"):
        await ImportWorker(settings).run("hf:ORG/Tiny", publication)
    assert "model.safetensors" not in asked


async def test_an_attempt_goes_on_where_the_mirror_broke_off(
    settings: Settings,
    publication: Publication,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = base_dir(tmp_path / "model")
    mirror_of(folder, monkeypatch)
    whole = HubMirror.fetch

    async def broken(self: HubMirror, *arguments: object) -> None:
        if getattr(arguments[1], "path", "") == "model.safetensors":
            raise Unavailable("the mirror does not answer")
        await whole(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(HubMirror, "fetch", broken)
        with pytest.raises(Unavailable):
            await ImportWorker(settings).run("hf:ORG/Tiny", publication)
    (kept,) = settings.home.glob("import-*")
    assert sorted(path.name for path in (kept / "c0ffee").iterdir()) == [
        "config.json",
        "tokenizer.json",
    ]
    asked = mirror_of(folder, monkeypatch)
    assert (await ImportWorker(settings).run("hf:ORG/Tiny", publication)).published is not None
    assert asked == ["model.safetensors"]


async def test_two_attempts_never_share_a_directory(
    settings: Settings, publication: Publication, tmp_path: Path
) -> None:
    staging = settings.home / f"import-{publication.job_id}"
    staging.mkdir(parents=True)
    handle = os.open(staging / ".lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(Unavailable, match="an earlier attempt of this import is still at work"):
        await ImportWorker(settings).run(base_dir(tmp_path / "m").as_uri(), publication)
    os.close(handle)
    assert staging.is_dir(), "it is the other's"


async def test_what_has_no_room_is_refused_before_its_first_byte(
    settings: Settings,
    publication: Publication,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        siblings = [{"rfilename": "config.json", "size": 2**27}]
        return httpx.Response(200, json={"sha": "c0ffee", "siblings": siblings})

    use_mirror(answer, monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**26))
    with pytest.raises(DiskFull, match="134,217,728 more bytes"):
        await ImportWorker(settings).run("hf:ORG/Tiny", publication)


async def test_a_stopped_import_registers_nothing(
    database: Database,
    settings: Settings,
    publication: Publication,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = asyncio.Event()

    async def hang(*arguments: object) -> None:
        began.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(imports, "publish", hang)
    worker = ImportWorker(settings)
    running = asyncio.ensure_future(worker.run(base_dir(tmp_path / "m").as_uri(), publication))
    await began.wait()
    await worker.stop()
    assert (await running).stopped
    assert list(settings.home.glob("import-*")) == []
    async with database.begin() as db:
        made = await db.execute(
            text("SELECT count(*) FROM model_versions WHERE job_id = :j"), {"j": publication.job_id}
        )
        assert made.scalar() == 0


class _Remote:
    """An actor's door to a worker of this process."""

    def __init__(self, worker: ImportWorker) -> None:
        self._worker = worker

    def __getattr__(self, name: str) -> object:
        return SimpleNamespace(remote=getattr(self._worker, name))


async def test_a_job_of_an_import_tells_what_it_left_out(
    database: Database, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = base_dir(tmp_path / "model")
    (folder / "LICENSE").write_text("MIT")
    job = await submit(database)
    async with database.begin() as db:
        (await db.get_one(Job, job.id)).spec = {"model": "mine", "source": folder.as_uri()}
    opened = await start(database, job.id)
    assert opened is not None
    lease, claimed = await JobLease.claim(database, job.id, opened.submission_id)

    async def place(attempt: Attempt, worker: type[ImportWorker]) -> tuple[_Remote, int]:
        return _Remote(worker(attempt.settings)), 1

    monkeypatch.setattr(single, "_place_worker", place)
    await single.import_model(Attempt(settings, database, lease, claimed))
    ended = await load(database, job.id)
    assert ended is not None and ended.state == "SUCCEEDED" and ended.result is not None
    assert (ended.result["model"], ended.result["left_out"]) == ("mine@0.1.0", ["LICENSE"])
    told = "".join(chunk.text for chunk in await logs(database, job.id))
    assert "left out, because no engine reads it: LICENSE" in told


async def test_what_is_not_there_or_is_no_model_is_told(
    settings: Settings, publication: Publication, tmp_path: Path
) -> None:
    worker = ImportWorker(settings)
    with pytest.raises(InvalidRequest, match="on the node that imports it"):
        await worker.run("file:///none/such", publication)
    folder = base_dir(tmp_path / "m")
    (folder / "config.json").write_text(json.dumps({"architectures": ["Unknown"]}))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidArtifact, match=r"no tokenizer.*architecture Unknown"):
        await worker.run(folder.as_uri(), publication)
