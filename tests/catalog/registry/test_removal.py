"""Deleting models, what lists show of them, and what a killed registration leaves."""

import asyncio
import os
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from foundry.catalog.registry.blobs import BlobUpload
from foundry.catalog.registry.collecting import list_known_blobs
from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.registration import Registration
from foundry.catalog.registry.service import Registry
from foundry.errors import AliasInUse, Conflict, ModelNotFound, VersionInUse
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.supervisor.orphans import GRACE_S, OrphanCollector
from tests.catalog.registry.files import adapter_dir, base_dir
from tests.catalog.registry.test_service import BASE, Desk
from tests.catalog.registry.test_service import desk as desk
from tests.catalog.registry.test_service import objects as objects

pytestmark = pytest.mark.postgres


async def delete(desk: Desk, name: str = "smol", *, all_versions: bool = False) -> None:
    await desk.registry(
        lambda registry: registry.delete_model(name, all_versions=all_versions, reason="test")
    )


async def listed(desk: Desk) -> list[tuple[str, str | None, int, list[str]]]:
    page = await desk.registry(lambda registry: registry.list_models())
    return [
        (each.model.name, each.latest_version, each.version_count, [a.name for a in each.aliases])
        for each in page.data
    ]


async def test_a_list_shows_what_is_looked_for(desk: Desk, tmp_path: Path) -> None:
    for seed in range(3):
        await desk.register(BASE, base_dir(tmp_path / str(seed), seed))
    await desk.register(
        VersionSpec("smol", "base", "import", version="1.0.0-rc.1"), base_dir(tmp_path / "rc", 9)
    )
    await desk.register(VersionSpec("other", "base", "import"), base_dir(tmp_path / "o", 7))
    await desk.aliases(lambda aliases: aliases.set("smol", "staging", "0.1.0", None))
    await desk.registry(lambda registry: registry.tombstone("smol", "0.3.0"))
    assert await listed(desk) == [("other", "0.1.0", 1, []), ("smol", "0.2.0", 3, ["staging"])]


async def test_an_empty_model_goes_and_comes_back_with_new_numbers(
    desk: Desk, tmp_path: Path
) -> None:
    base = await desk.register(BASE, base_dir(tmp_path / "b"))
    with pytest.raises(Conflict, match="smol has versions: delete them first, or with it"):
        await delete(desk)
    await desk.registry(lambda registry: registry.tombstone("smol", "0.1.0"))
    await delete(desk)
    assert await listed(desk) == []
    for _ in range(2):
        with pytest.raises(ModelNotFound):
            await delete(desk)
    with pytest.raises(ModelNotFound):
        await desk.registry(lambda registry: registry.describe("smol"))
    other = await desk.register(VersionSpec("base", "base", "import"), base_dir(tmp_path / "c", 1))
    # The name is free for another kind; a number is never used again.
    again = await desk.register(
        VersionSpec("smol", "adapter", "import", base_version_id=other.id),
        adapter_dir(tmp_path / "a"),
    )
    assert (again.version, again.model.kind, again.model_id) == ("0.2.0", "adapter", base.model_id)
    assert [row[:3] for row in await listed(desk)] == [("base", "0.1.0", 1), ("smol", "0.2.0", 1)]
    async with desk.database.begin() as db:
        actions = await db.execute(
            text("SELECT action FROM audit_events WHERE resource_id = :id ORDER BY id"),
            {"id": str(base.model_id)},
        )
        assert list(actions.scalars()) == ["model.create", "model.delete", "model.create"]


async def test_a_model_goes_with_all_its_versions_or_not_at_all(desk: Desk, tmp_path: Path) -> None:
    first = await desk.register(BASE, base_dir(tmp_path / "1", 1))
    child = VersionSpec("smol", "base", "merge", parent_version_id=first.id)
    await desk.register(child, base_dir(tmp_path / "2", 2))
    adapter = VersionSpec("bot", "adapter", "sft", base_version_id=first.id)
    await desk.register(adapter, adapter_dir(tmp_path / "a"))
    with pytest.raises(VersionInUse, match=r"is what bot@0.1.0 was made from"):
        await delete(desk, all_versions=True)
    assert (await desk.resolve("smol")).version == "0.2.0", "nothing of it was deleted"
    await desk.aliases(lambda aliases: aliases.set("bot", "staging", "0.1.0", None))
    with pytest.raises(AliasInUse):
        await delete(desk, "bot", all_versions=True)
    alias = (await desk.registry(lambda registry: registry.describe("bot"))).aliases[0]
    await desk.aliases(lambda aliases: aliases.delete("bot", "staging", alias.version_id))
    await delete(desk, "bot", all_versions=True)
    await delete(desk, all_versions=True)
    assert await listed(desk) == []
    async with desk.database.begin() as db:
        counts = await db.execute(text("SELECT DISTINCT refcount FROM blobs"))
        assert list(counts.scalars()) == [0], "their files are collected"


async def test_a_registration_beside_a_deletion_keeps_the_model(desk: Desk, tmp_path: Path) -> None:
    await desk.register(BASE, base_dir(tmp_path / "b"))
    folders = [base_dir(tmp_path / f"n{i}", i + 1) for i in range(6)]

    async def remove() -> None:
        for _ in range(6):
            try:
                await delete(desk, all_versions=True)
            except (Conflict, ModelNotFound):
                await asyncio.sleep(0.01)

    made, _ = await asyncio.gather(
        asyncio.gather(*(desk.register(BASE, folder) for folder in folders)), remove()
    )
    assert len({version.version for version in made}) == 6
    async with desk.database.begin() as db:
        rows = await db.execute(
            text(
                "SELECT count(*) FROM models m JOIN model_versions v ON v.model_id = m.id "
                "WHERE m.deleted_at IS NOT NULL AND v.stage <> 'tombstoned'"
            )
        )
        assert rows.scalar() == 0, "no version is hidden in a deleted model"


async def test_lineage_names_the_data(desk: Desk, tmp_path: Path) -> None:
    base = await desk.register(BASE, base_dir(tmp_path / "b"))
    data, gone = uuid4(), uuid4()
    jobs = {"bot": uuid4(), "old": uuid4()}
    for name, dataset in (("bot", data), ("old", gone)):
        spec = VersionSpec(
            name,
            "adapter",
            "sft",
            base_version_id=base.id,
            job_id=jobs[name],
            dataset_version_id=dataset,
        )
        await desk.register(spec, adapter_dir(tmp_path / name))

    class Names:
        async def name_versions(self, ids: object) -> dict[UUID, str]:
            assert ids == {data, gone}
            return {data: "support@1"}

    async with desk.database.begin() as db:
        registry = Registry(db, desk.registry, desk.caller, datasets=Names())  # type: ignore[arg-type]
        found = await registry.lineage("smol", "0.1.0", down=True)
    assert [(each.id, each.reference) for each in found.datasets] == [(data, "support@1")]
    assert {version.job_id for version in found.versions} == {None, *jobs.values()}


async def test_what_a_killed_registration_left_is_collected(
    database: Database, objects: DirectoryStore, desk: Desk, tmp_path: Path
) -> None:
    kept = await desk.register(BASE, base_dir(tmp_path / "b"))
    folder = base_dir(tmp_path / "killed", 5)
    with pytest.MonkeyPatch.context() as patched:

        async def die(*arguments: object) -> None:
            raise KeyboardInterrupt

        # As a kill: nothing of ours runs after the upload.
        patched.setattr(Registration, "insert", die)
        patched.setattr(BlobUpload, "discard", die)
        with pytest.raises(KeyboardInterrupt):
            await desk.register(VersionSpec("never", "base", "import"), folder)
    assert [row[0] for row in await listed(desk)] == ["smol"], "no row of it exists"
    stored = [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    for path in stored:
        os.utime(path, (time.time() - GRACE_S - 60,) * 2)

    async def owner() -> str:
        return "here"

    async def known(keys: object) -> set[str]:
        return await list_known_blobs(database, keys)  # type: ignore[arg-type]

    collector = OrphanCollector(objects, {"blobs/": known}, ("blobs/",), owner)
    await collector.collect()
    await collector.collect()
    left = [path for path in (tmp_path / "objects" / "blobs").rglob("*") if path.is_file()]
    assert (len(stored), len(left)) == (4, 3)
    assert (await desk.resolve("smol")).id == kept.id
