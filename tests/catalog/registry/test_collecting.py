"""Objects of deleted versions, on a real PostgreSQL and a directory."""

from pathlib import Path

import pytest

from foundry.catalog.registry.collecting import collect_blobs
from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.service import Registry
from foundry.errors import Unavailable
from foundry.governance.audit.service import AuditTrail
from foundry.infra.database import Database
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
        async with database.begin() as db:
            registry = Registry(db, objects, AuditTrail(db, CALLER, "test"), CALLER)
            folder = base_dir(tmp_path / str(seed), seed)
            return (await registry.register(VersionSpec("m", "base", "import"), folder)).version

    async def tombstone(version: str) -> None:
        async with database.begin() as db:
            registry = Registry(db, objects, AuditTrail(db, CALLER, "test"), CALLER)
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
