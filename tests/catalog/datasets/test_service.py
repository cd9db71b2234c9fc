"""Versions of datasets, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from foundry.catalog.datasets.content import DatasetContent
from foundry.catalog.datasets.domain import AddOptions
from foundry.catalog.datasets.service import Datasets, load_dataset
from foundry.catalog.datasets.shards import read_rows
from foundry.catalog.datasets.tables import DatasetVersion
from foundry.catalog.datasets.upload import receive_body
from foundry.errors import (
    BodyTooLarge,
    CommitUnknown,
    DiskFull,
    InvalidDataset,
    InvalidRequest,
    NotFound,
)
from foundry.governance.identity.domain import Principal
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.weights import WeightCache
from tests.catalog.datasets.test_validation import lines, rows
from tests.governance.identity.principals import principal
from tests.lost_commits import lose_commit

OPTIONS = AddOptions("t.jsonl", eval_fraction=0.25)


async def add(
    database: Database, objects: DirectoryStore, caller: Principal, name: str, path: Path
) -> tuple[DatasetVersion, bool]:
    return await DatasetContent(database, objects, caller, "test").add(name, path, OPTIONS)


def source(folder: Path, count: int) -> Path:
    path = folder / f"{count}.jsonl"
    path.write_bytes(lines(rows(count)))
    return path


def stored(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.postgres
async def test_versions_are_numbered_and_the_same_bytes_are_one(
    database: Database, tmp_path: Path
) -> None:
    objects, caller = DirectoryStore(tmp_path / "o"), principal()
    paths = [source(tmp_path, count) for count in (20, 30, 40)]
    made = await asyncio.gather(
        *(add(database, objects, caller, "support", path) for path in paths * 4)
    )
    assert sorted({version.number for version, _ in made}) == [1, 2, 3]
    assert len({version.id for version, _ in made}) == 3
    assert sum(created for _, created in made) == 3
    assert len(stored(tmp_path / "o")) == 6


@pytest.mark.postgres
async def test_a_worker_reads_what_was_added(database: Database, tmp_path: Path) -> None:
    objects, caller = DirectoryStore(tmp_path / "o"), principal()
    version, _ = await add(database, objects, caller, "support", source(tmp_path, 40))
    manifest = await load_dataset(database, version.id)
    local = await WeightCache(objects, tmp_path / "c").ensure(manifest.digest, manifest.files)
    train = list(read_rows(local / "train.jsonl.zst"))
    held_out = list(read_rows(local / "eval.jsonl.zst"))
    assert (len(train), len(held_out)) == (version.train_rows, version.eval_rows)
    assert sorted(str(row["prompt"]) for row in train + held_out) == sorted(
        str(row["prompt"]) for row in rows(40)
    )


class FullStore(DirectoryStore):
    """Has room for one object."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._room = 1

    async def put_file(self, key: str, source: Path) -> None:
        if self._room == 0:
            raise DiskFull("no space is left")
        self._room -= 1
        await super().put_file(key, source)


@pytest.mark.postgres
async def test_a_version_tells_what_its_rows_have_beside_text(
    database: Database, tmp_path: Path
) -> None:
    reply = {"role": "assistant", "content": "2", "reasoning": "add"}
    talk = [{"messages": [{"role": "user", "content": str(i)}, reply]} for i in range(9)]
    (tmp_path / "chat").write_bytes(lines(talk))
    objects, caller = DirectoryStore(tmp_path / "o"), principal()
    version, _ = await add(database, objects, caller, "chat", tmp_path / "chat")
    assert version.options["uses"] == ["reasoning"]
    pairs, _ = await add(database, objects, caller, "pairs", source(tmp_path, 20))
    assert "uses" not in pairs.options


@pytest.mark.postgres
async def test_a_full_disk_leaves_nothing(database: Database, tmp_path: Path) -> None:
    with pytest.raises(DiskFull):
        await add(database, FullStore(tmp_path / "o"), principal(), "support", source(tmp_path, 40))
    assert stored(tmp_path / "o") == []
    async with database.begin() as db:
        assert (await db.execute(text("SELECT count(*) FROM datasets"))).scalar_one() == 0


@pytest.mark.postgres
async def test_names_and_tenants(database: Database, tmp_path: Path) -> None:
    objects, caller = DirectoryStore(tmp_path / "o"), principal()
    path = source(tmp_path, 40)
    with pytest.raises(InvalidRequest, match="is not a dataset name"):
        await add(database, objects, caller, "../x", path)
    await add(database, objects, caller, "support", path)
    stranger = principal()
    async with database.begin() as db:
        datasets = Datasets(db, stranger)
        for reference in ("support", "support@1"):
            with pytest.raises(NotFound):
                await datasets.resolve(reference)
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b"{}")
    with pytest.raises(InvalidDataset):
        await add(database, objects, caller, "support", bad)


class WatchedStore(DirectoryStore):
    """Notes how many connections are in use while files move."""

    def __init__(self, root: Path, database: Database) -> None:
        super().__init__(root)
        self._database = database
        self.open: list[int] = []

    async def put_file(self, key: str, source: Path) -> None:
        self.open.append(await count_transactions(self._database))
        await super().put_file(key, source)

    async def get_file(self, key: str, target: Path) -> None:
        self.open.append(await count_transactions(self._database))
        await super().get_file(key, target)


async def count_transactions(database: Database) -> int:
    """Other sessions of this database that are in a transaction."""
    async with database.begin() as db:
        query = text(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND state LIKE 'idle in transaction%' AND pid <> pg_backend_pid()"
        )
        return int((await db.execute(query)).scalar_one())


@pytest.mark.postgres
async def test_no_transaction_is_open_while_files_move(database: Database, tmp_path: Path) -> None:
    store, caller = WatchedStore(tmp_path / "o", database), principal()
    await add(database, store, caller, "support", source(tmp_path, 40))
    content = DatasetContent(database, store, caller, "test")
    assert len(await content.read_head("support", "train", 3)) == 3
    assert store.open == [0, 0, 0]


async def _chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 1000


async def test_an_upload_is_kept_while_it_is_used() -> None:
    async with receive_body(_chunks(3000), 4_000_000) as path:
        assert path.stat().st_size == 3_000_000
    assert not path.exists()
    with pytest.raises(BodyTooLarge, match="exceeds 2500 bytes"):
        async with receive_body(_chunks(3), 2500):
            pass


@pytest.mark.postgres
async def test_a_commit_whose_answer_is_lost_keeps_its_files(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, caller = DirectoryStore(tmp_path / "o"), principal()
    with monkeypatch.context() as losing:
        # The first one asks whether the content is known.
        lose_commit(losing, database, 2)
        with pytest.raises(CommitUnknown):
            await add(database, objects, caller, "support", source(tmp_path, 20))
    version, created = await add(database, objects, caller, "support", source(tmp_path, 20))
    assert (version.number, created) == (1, False)
    content = DatasetContent(database, objects, caller, "test")
    assert len(await content.read_head("support", "train", 3)) == 3
