"""Objects of deleted versions, on a real PostgreSQL and a directory."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from foundry.catalog.registry import collecting
from foundry.catalog.registry.collecting import collect_blobs
from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.registrar import Registrar
from foundry.catalog.registry.repository import Blobs
from foundry.catalog.registry.service import Registry
from foundry.catalog.registry.tables import Blob
from foundry.errors import Unavailable
from foundry.governance.audit.service import AuditTrail
from foundry.infra.database import Database, utcnow
from foundry.infra.directory_store import DirectoryStore
from tests.catalog.registry.files import base_dir
from tests.governance.identity.principals import principal

pytestmark = pytest.mark.postgres
CALLER = principal()


async def test_the_objects_of_a_deleted_version_go_and_shared_ones_stay(
    database: Database, tmp_path: Path
) -> None:
    objects = DirectoryStore(tmp_path / "objects")

    def stored() -> int:
        return sum(path.is_file() for path in (tmp_path / "objects").rglob("*"))

    async def register(seed: int) -> str:
        registrar = Registrar(database, objects, CALLER, "test")
        folder = base_dir(tmp_path / str(seed), seed)
        return (await registrar.register(VersionSpec("m", "base", "import"), folder)).version

    async def tombstone(version: str) -> None:
        async with database.begin() as db:
            registry = Registry(db, AuditTrail(db, CALLER, "test"), CALLER)
            await registry.tombstone("m", version)

    first, _ = await register(1), await register(2)
    assert stored() == 4, "both share two files"
    assert await collect_blobs(database, objects, 0) == []
    await tombstone(first)
    assert await collect_blobs(database, objects) == [], "a young one may be claimed yet"
    delete = objects.delete

    async def away(key: str) -> None:
        raise Unavailable("the store is away")

    objects.delete = away  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await collect_blobs(database, objects, 0)
    objects.delete = delete  # type: ignore[method-assign]
    assert len(await collect_blobs(database, objects, 0)) == 1
    assert stored() == 3
    assert await collect_blobs(database, objects, 0) == []
    await register(1)
    assert stored() == 4, "registered again, it is uploaded again"


async def test_an_object_that_the_store_does_not_remove_keeps_no_other(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "_BATCH", 1)
    async with database.begin() as db:
        db.add_all(
            Blob(
                tenant_id=CALLER.tenant_id,
                sha256=name * 64,
                size=1,
                object_key=f"blobs/{name}",
                refcount=0,
                created_at=utcnow() - timedelta(hours=hours),
            )
            for name, hours in (("a", 3), ("b", 2))
        )
    objects = DirectoryStore(tmp_path)
    for name in ("a", "b"):
        await objects.put_bytes(f"blobs/{name}", b"x")
    delete = objects.delete

    async def refuse(key: str) -> None:
        if key == "blobs/a":
            raise Unavailable("the store refuses it")
        await delete(key)

    monkeypatch.setattr(objects, "delete", refuse)
    for _ in range(2):
        with pytest.raises(Unavailable, match="1 unused objects could not be removed"):
            await collect_blobs(database, objects)
    assert [await objects.exists(f"blobs/{name}") for name in ("a", "b")] == [True, False]


async def test_a_blob_that_is_collected_during_an_upload_is_uploaded_again(
    database: Database, tmp_path: Path
) -> None:
    objects = DirectoryStore(tmp_path / "objects")
    registrar = Registrar(database, objects, CALLER, "test")
    spec, folder = VersionSpec("m", "base", "import"), base_dir(tmp_path / "files")
    await registrar.register(spec, folder)
    async with database.begin() as db:
        # As `collect_blobs` does it between the look at what is stored and the claim.
        await db.execute(text("UPDATE blobs SET refcount = 0"))
    known, seen = Blobs.find_known, 0

    async def known_and_gone(self: Blobs, digests: Iterable[str]) -> dict[str, str]:
        nonlocal seen
        found = await known(self, digests)
        seen += 1
        if seen == 1:
            async with database.begin() as db:
                await db.execute(text("UPDATE blobs SET state = 'deleted'"))
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Blobs, "find_known", known_and_gone)
        version = await registrar.register(spec, folder)
    assert (version.version, seen) == ("0.2.0", 2)
    async with database.begin() as db:
        live = await db.execute(text("SELECT object_key FROM blobs WHERE state = 'live'"))
        keys = [row.object_key for row in live]
    assert len(keys) == 3
    assert all([await objects.exists(key) for key in keys])
