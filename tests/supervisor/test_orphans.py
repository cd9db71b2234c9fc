"""Objects that no row knows, and those that one does."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from foundry.catalog.datasets.content import list_known_files
from foundry.catalog.registry.collecting import list_known_blobs
from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.registrar import Registrar
from foundry.errors import Conflict, Unavailable
from foundry.execution.fleets.service import FleetLog, list_known_states, storage_prefix
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.retention import list_known_objects
from foundry.execution.workers.checkpoints import RemoteCheckpoints
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.supervisor.orphans import OWNER_KEY, OrphanCollector
from tests.catalog.datasets.test_service import add, source
from tests.catalog.registry.files import base_dir
from tests.execution.fleets.test_service import committed
from tests.execution.jobs.test_leases import CALLER, submit
from tests.execution.workers.test_checkpoints import checkpoint

NOW, WEEK_S = 2_000_000_000.0, 7 * 86_400.0


class Store(DirectoryStore):
    """Its objects are older than the grace, but those of `young` keys."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root

    def age(self, *young: str) -> None:
        for key in self.keys():
            stored_at = NOW - (WEEK_S - 1 if key in young else WEEK_S + 1)
            os.utime(self.root / key, (stored_at, stored_at))

    def keys(self) -> set[str]:
        files = (path for path in self.root.rglob("*") if path.is_file())
        return {path.relative_to(self.root).as_posix() for path in files}


async def own(store: DirectoryStore) -> None:
    await store.put_bytes(OWNER_KEY, b'{"database": "ours"}')


async def read_owner() -> str:
    return "ours"


async def list_nothing(keys: object) -> set[str]:
    return set()


@pytest.mark.parametrize("owner", [b'{"database": "theirs"}', b"{", b"[]"])
async def test_anothers_store_is_left_alone(tmp_path: Path, owner: bytes) -> None:
    store = Store(tmp_path)
    await store.put_bytes(OWNER_KEY, owner)
    await store.put_bytes("a/1", b"x")
    store.age()
    collector = OrphanCollector(store, {"a/": list_nothing}, ("a/",), read_owner, lambda: NOW)
    with pytest.raises(Conflict, match="belongs to another database"):
        await collector.collect()
    assert store.keys() == {OWNER_KEY, "a/1"}


async def test_a_store_that_nobody_marked_is_taken_only_if_it_is_known(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.put_bytes("a/1", b"x")
    store.age()
    known: set[str] = set()

    async def list_known(keys: object) -> set[str]:
        return known

    collector = OrphanCollector(store, {"a/": list_known}, ("a/",), read_owner, lambda: NOW)
    with pytest.raises(Conflict, match="belongs to another database"):
        await collector.collect()
    known.add("a/1")
    await collector.collect()
    assert await store.get_bytes(OWNER_KEY) == b'{"database": "ours"}'
    known.clear()
    await collector.collect()
    assert store.keys() == {OWNER_KEY}


async def test_an_empty_store_is_taken(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await OrphanCollector(store, {"a/": list_nothing}, ("a/",), read_owner).collect()
    assert store.keys() == {OWNER_KEY}


async def test_a_turn_that_was_cut_off_goes_on_behind_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await own(store)
    for key in ("a/1", "b/1"):
        await store.put_bytes(key, b"x")
    store.age()

    async def hang(keys: object) -> set[str]:
        await asyncio.Event().wait()
        return set()

    collector = OrphanCollector(
        store, {"a/": hang, "b/": list_nothing}, ("a/",), read_owner, lambda: NOW
    )
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await collector.collect()
    assert store.keys() == {OWNER_KEY, "a/1"}


async def test_what_nobody_knows_goes_after_a_week(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await own(store)
    for key in ("a/known", "a/orphan", "a/young", "b/other"):
        await store.put_bytes(key, b"x")
    store.age("a/young")

    async def list_known(keys: object) -> set[str]:
        assert keys == ["a/known", "a/orphan"] or keys == ["a/orphan", "a/known"]
        return {"a/known"}

    await OrphanCollector(store, {"a/": list_known}, ("a/",), read_owner, lambda: NOW).collect()
    assert store.keys() == {OWNER_KEY, "a/known", "a/young", "b/other"}


async def test_an_upload_that_nobody_finished_goes_after_a_week(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await own(store)
    halves = [tmp_path / f".{number}.0123.partial" for number in (1, 2)]
    for half, age_s in zip(halves, (WEEK_S - 60, WEEK_S + 60), strict=True):
        half.write_bytes(b"half")
        stored_at = time.time() - age_s
        os.utime(half, (stored_at, stored_at))
    await OrphanCollector(store, {"a/": list_nothing}, ("a/",), read_owner).collect()
    assert [half.exists() for half in halves] == [True, False]


async def test_one_that_the_store_does_not_remove_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    await own(store)
    for key in ("a/1", "a/2"):
        await store.put_bytes(key, b"x")
    store.age()
    delete = store.delete

    async def refuse(key: str) -> None:
        if key == "a/1":
            raise Unavailable("the store refuses it")
        await delete(key)

    async def list_known(keys: object) -> set[str]:
        return set()

    monkeypatch.setattr(store, "delete", refuse)
    with pytest.raises(Unavailable, match="1 objects that nothing refers to"):
        await OrphanCollector(store, {"a/": list_known}, ("a/",), read_owner, lambda: NOW).collect()
    assert store.keys() == {OWNER_KEY, "a/1"}


@pytest.mark.postgres
async def test_rows_know_their_objects(database: Database, tmp_path: Path) -> None:
    store = Store(tmp_path / "objects")
    await Registrar(database, store, CALLER, "test").register(
        VersionSpec("m", "base", "import"), base_dir(tmp_path / "m")
    )
    await add(database, store, CALLER, "words", source(tmp_path, 20))
    job = await submit(database)
    lease, _ = await JobLease.claim(database, job.id)
    await RemoteCheckpoints(database, store, job.id, lease.fence).save(
        checkpoint(1), tmp_path / "scratch"
    )
    fleet, ended = await submit(database, "fleet"), await submit(database, "ended")
    driver, _ = await JobLease.claim(database, ended.id)
    log = FleetLog(database, ended.id, driver.fence)
    await log.commit(committed(1))
    state = {"object_key": f"{storage_prefix(ended.id)}/named", "sha256": "0"}
    await log.keep(1, {"shared": state, "members": {"m1": state}})
    await driver.fail({"code": "x", "message": "y"})
    for key in (
        f"{storage_prefix(ended.id)}/named",
        f"{storage_prefix(fleet.id)}/of-an-active",
        "fleets/x",
    ):
        await store.put_bytes(key, b"x")
    known = store.keys()
    orphans = {
        "blobs/t/ab/abcd/1",
        "datasets/t/v/train.jsonl.zst",
        f"checkpoints/{job.id}/1-00000001-x",
        "logs/t/j/1.jsonl",
        f"{storage_prefix(ended.id)}/unnamed",
    }
    for key in orphans:
        await store.put_bytes(key, b"x")
    store.age()
    collector = OrphanCollector(
        store,
        {
            "blobs/": lambda keys: list_known_blobs(database, keys),
            "datasets/": lambda keys: list_known_files(database, keys),
            "checkpoints/": lambda keys: list_known_objects(database, keys),
            "logs/": lambda keys: list_known_objects(database, keys),
            "fleets/": lambda keys: list_known_states(database, keys),
        },
        judged=("blobs/", "datasets/"),
        read_owner=database.read_identity,
        clock=lambda: NOW,
    )
    # The first turn only takes the store.
    await collector.collect()
    assert store.keys() == known | orphans | {OWNER_KEY}
    await collector.collect()
    assert store.keys() == known | {OWNER_KEY}
    assert len(known) == 3 + 2 + 1 + 3
