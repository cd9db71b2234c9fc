"""Deleting versions and collecting their objects, on a real PostgreSQL and a directory."""

import asyncio
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from foundry.catalog.datasets import collecting
from foundry.catalog.datasets.collecting import collect_deleted
from foundry.catalog.datasets.content import DatasetContent, list_known_files
from foundry.catalog.datasets.removal import DatasetRemoval
from foundry.catalog.datasets.service import Datasets, hold_version, load_dataset
from foundry.catalog.datasets.tables import DatasetVersion
from foundry.errors import NotFound, Unavailable, VersionInUse
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal
from foundry.infra.database import Database, utcnow
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.version_use import UseFinder, VersionUse
from tests.catalog.datasets.test_service import add, source, stored
from tests.governance.identity.principals import principal

pytestmark = pytest.mark.postgres


class User:
    """Uses one version."""

    def __init__(self, version_id: UUID) -> None:
        self._version_id = version_id

    async def find_use(self, version_ids: Collection[UUID]) -> VersionUse | None:
        return VersionUse(self._version_id, "X") if self._version_id in version_ids else None


async def delete(
    database: Database,
    caller: Principal,
    name: str,
    number: int | None = None,
    *,
    readers: Collection[UseFinder] = (),
    heirs: Collection[UseFinder] = (),
    force: bool = False,
) -> None:
    async with database.begin() as db:
        audit = AuditTrail(db, caller, "test")
        removal = DatasetRemoval(db, audit, caller, list(readers), list(heirs))
        if number is None:
            await removal.delete_all(name, force=force, reason="bad labels")
        else:
            await removal.delete_version(name, number, force=force, reason="bad labels")


async def two_versions(
    database: Database, folder: Path, caller: Principal
) -> tuple[DirectoryStore, DatasetVersion, DatasetVersion]:
    objects = DirectoryStore(folder / "o")
    first, _ = await add(database, objects, caller, "support", source(folder, 20))
    second, _ = await add(database, objects, caller, "support", source(folder, 30))
    return objects, first, second


async def test_a_tombstone_keeps_its_name_and_number(database: Database, tmp_path: Path) -> None:
    caller = principal()
    objects, first, second = await two_versions(database, tmp_path, caller)
    await delete(database, caller, "support", 2)
    async with database.begin() as db:
        datasets = Datasets(db, caller)
        assert (await datasets.resolve("support")).id == first.id
        for read in (datasets.resolve("support@2"), datasets.hold("support@2")):
            with pytest.raises(NotFound, match=f"support@2 was deleted by {caller.subject} at 20"):
                await read
        with pytest.raises(NotFound, match="support@2 was deleted"):
            await hold_version(db, second.id)
        record = await datasets.get("support@2")
        assert (record.id, record.digest) == (second.id, second.digest)
        assert (record.deleted_by, record.delete_reason) == (caller.subject, "bad labels")
        assert [v.number for v in (await datasets.list_versions("support")).data] == [1]
        (listed,) = (await datasets.list_datasets()).data
        assert (listed.latest.id, listed.versions) == (first.id, 1)
        events = (await AuditTrail(db, caller, "test").list_events(resource_id=str(second.id))).data
        assert [(e.action, e.reason) for e in events] == [
            ("dataset.delete", "bad labels"),
            ("dataset.add", None),
        ]
    with pytest.raises(NotFound, match="support@2 was deleted"):
        await load_dataset(database, second.id)
    with pytest.raises(NotFound, match="support@2 was deleted"):
        await DatasetContent(database, objects, caller, "test").read_head("support@2", "train", 1)


async def test_the_same_bytes_can_be_added_again(database: Database, tmp_path: Path) -> None:
    caller = principal()
    objects, _, second = await two_versions(database, tmp_path, caller)
    await delete(database, caller, "support", 2)
    again, created = await add(database, objects, caller, "support", source(tmp_path, 30))
    assert (again.number, created, again.digest) == (3, True, second.digest)
    await delete(database, caller, "support")
    async with database.begin() as db:
        datasets = Datasets(db, caller)
        assert (await datasets.list_datasets()).data == []
        assert (await datasets.list_versions("support")).data == []
        with pytest.raises(NotFound, match="support does not exist"):
            await datasets.resolve("support")
    last, _ = await add(database, objects, caller, "support", source(tmp_path, 30))
    assert last.number == 4


async def test_what_is_used_stays(database: Database, tmp_path: Path) -> None:
    caller = principal()
    _, _, second = await two_versions(database, tmp_path, caller)
    user = User(second.id)
    with pytest.raises(VersionInUse, match="support@2 is read by X: wait for it or cancel it"):
        await delete(database, caller, "support", 2, readers=[user], force=True)
    with pytest.raises(VersionInUse, match="support@2 is read by X"):
        await delete(database, caller, "support", readers=[user])
    with pytest.raises(VersionInUse, match=r"X was trained on support@2: .* --force"):
        await delete(database, caller, "support", heirs=[user])
    async with database.begin() as db:
        assert len((await Datasets(db, caller).list_versions("support")).data) == 2
    await delete(database, caller, "support", 2, heirs=[user], force=True)
    await delete(database, caller, "support", 1, heirs=[user])


async def test_what_is_not_there_is_not_deleted(database: Database, tmp_path: Path) -> None:
    caller = principal()
    await two_versions(database, tmp_path, caller)
    await delete(database, caller, "support", 2)
    with pytest.raises(NotFound, match="support@2 was deleted by"):
        await delete(database, caller, "support", 2)
    for name, number, owner in (
        ("support", 3, caller),
        ("other", 1, caller),
        ("other", None, caller),
        ("support", 1, principal()),
        ("support", None, principal()),
    ):
        with pytest.raises(NotFound, match="does not exist"):
            await delete(database, owner, name, number)


async def test_whoever_holds_a_version_has_it(database: Database, tmp_path: Path) -> None:
    caller = principal()
    _, first, _ = await two_versions(database, tmp_path, caller)
    async with database.begin() as db:
        await Datasets(db, caller).hold("support@1")
        deletion = asyncio.create_task(delete(database, caller, "support", 1))
        done, _ = await asyncio.wait({deletion}, timeout=0.3)
        assert not done, "it waits for the transaction that holds the version"
    await deletion
    with pytest.raises(NotFound):
        await load_dataset(database, first.id)


async def test_many_versions_go_at_once(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = principal()
    await two_versions(database, tmp_path, caller)
    monkeypatch.setattr("foundry.catalog.datasets.removal._BATCH", 1)
    await delete(database, caller, "support")
    async with database.begin() as db:
        assert (await Datasets(db, caller).list_versions("support")).data == []


async def test_objects_of_deleted_versions_are_collected(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = principal()
    objects, first, second = await two_versions(database, tmp_path, caller)
    keys = [file.object_key for file in second.files]
    await delete(database, caller, "support", 2)
    assert await collect_deleted(database, objects) == [], "somebody may be reading it"
    assert await list_known_files(database, keys) == set(keys)
    monkeypatch.setattr(collecting, "_READ_S", 0)
    with monkeypatch.context() as away:

        async def refuse(key: str) -> None:
            raise Unavailable("the store is away")

        away.setattr(objects, "delete", refuse)
        with pytest.raises(Unavailable, match="1 deleted datasets"):
            await collect_deleted(database, objects, 0)
    assert sorted(await collect_deleted(database, objects, 0)) == sorted(keys)
    assert await collect_deleted(database, objects, 0) == []
    assert await list_known_files(database, keys) == set()
    assert {path.name for path in stored(tmp_path / "o")} == {"train.jsonl.zst", "eval.jsonl.zst"}
    content = DatasetContent(database, objects, caller, "test")
    assert len(await content.read_head("support", "train", 3)) == 3
    assert (await load_dataset(database, first.id)).eval_rows == first.eval_rows


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE dataset_versions SET train_rows = 0",
        "UPDATE dataset_versions SET deleted_at = now() + interval '1 day'",
        "UPDATE dataset_versions SET deleted_at = NULL",
        "DELETE FROM dataset_versions",
    ],
)
async def test_nothing_else_of_a_version_changes(
    database: Database, tmp_path: Path, change: str
) -> None:
    caller = principal()
    await two_versions(database, tmp_path, caller)
    await delete(database, caller, "support", 2)
    with pytest.raises(DBAPIError, match=r"immutable|append-only"):
        async with database.begin() as db:
            await db.execute(
                text(f"{change} WHERE deleted_at < :at"), {"at": utcnow() + timedelta(1)}
            )
