"""Registering, numbering, aliases and deletion, on a real PostgreSQL."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from foundry.catalog.registry.aliases import Aliases
from foundry.catalog.registry.domain import VersionSpec
from foundry.catalog.registry.registrar import Registrar
from foundry.catalog.registry.service import ModelVersion, Registry, load_manifest
from foundry.errors import (
    AliasInUse,
    AliasMoved,
    CommitUnknown,
    Conflict,
    FoundryError,
    InvalidArtifact,
    InvalidRequest,
    ModelNotFound,
    PermissionDenied,
    VersionExists,
    VersionInUse,
)
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal, Role
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.weights import WeightCache
from tests.catalog.registry.files import adapter_dir, base_dir
from tests.governance.identity.principals import principal, with_role
from tests.lost_commits import lose_commit

pytestmark = pytest.mark.postgres

T = TypeVar("T")
BASE = VersionSpec("smol", "base", "import")


class Desk:
    """One caller, one transaction per call."""

    def __init__(self, database: Database, objects: DirectoryStore, caller: Principal) -> None:
        self.database = database
        self.objects = objects
        self.caller = caller

    async def registry(self, call: Callable[[Registry], Awaitable[T]]) -> T:
        async with self.database.begin() as db:
            audit = AuditTrail(db, self.caller, "test")
            return await call(Registry(db, audit, self.caller))

    async def aliases(self, call: Callable[[Aliases], Awaitable[T]]) -> T:
        async with self.database.begin() as db:
            return await call(Aliases(db, AuditTrail(db, self.caller, "test"), self.caller))

    async def register(self, spec: VersionSpec, folder: Path) -> ModelVersion:
        registrar = Registrar(self.database, self.objects, self.caller, "test")
        return await registrar.register(spec, folder)

    async def resolve(self, reference: str) -> ModelVersion:
        return await self.registry(lambda registry: registry.resolve(reference))


@pytest.fixture
def objects(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "objects")


@pytest.fixture
def desk(database: Database, objects: DirectoryStore) -> Desk:
    return Desk(database, objects, principal())


def stored(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]


async def test_a_version_can_be_fetched_and_verified(desk: Desk, tmp_path: Path) -> None:
    folder = base_dir(tmp_path / "b")
    version = await desk.register(BASE, folder)
    assert (version.reference, version.stage, version.parameter_count) == (
        "smol@0.1.0",
        "ready",
        16,
    )
    manifest = await load_manifest(desk.database, version.id)
    assert manifest.digest == version.digest
    local = await WeightCache(desk.objects, tmp_path / "cache").ensure(
        manifest.digest, manifest.files
    )
    for name in ("config.json", "model.safetensors"):
        assert (local / name).read_bytes() == (folder / name).read_bytes()


async def test_sixteen_creators_get_sixteen_versions(desk: Desk, tmp_path: Path) -> None:
    folders = [base_dir(tmp_path / f"b{i}", seed=i) for i in range(16)]
    made = await asyncio.gather(*(desk.register(BASE, folder) for folder in folders))
    assert sorted(version.minor for version in made) == list(range(1, 17))
    assert (await desk.resolve("smol")).version == "0.16.0"


async def test_equal_files_are_stored_once(desk: Desk, tmp_path: Path) -> None:
    folder = base_dir(tmp_path / "b")
    await asyncio.gather(*(desk.register(BASE, folder) for _ in range(4)))
    assert len(stored(tmp_path)) == 3
    async with desk.database.begin() as db:
        counts = (await db.execute(text("SELECT refcount FROM blobs"))).scalars().all()
    assert counts == [4, 4, 4]


async def test_a_jobs_result_is_registered_once(desk: Desk, tmp_path: Path) -> None:
    base = await desk.register(BASE, base_dir(tmp_path / "b"))
    spec = VersionSpec("bot", "adapter", "sft", base_version_id=base.id, job_id=uuid4())
    folder = adapter_dir(tmp_path / "a")
    made = await asyncio.gather(*(desk.register(spec, folder) for _ in range(8)))
    assert len({version.id for version in made}) == 1
    assert made[0].context_length == 512
    assert made[0].architecture == "LlamaForCausalLM"


async def test_a_refused_version_leaves_nothing(desk: Desk, tmp_path: Path) -> None:
    folder = base_dir(tmp_path / "b")
    cases: list[tuple[VersionSpec, type[FoundryError]]] = [
        (VersionSpec("smol", "base", "import", parameter_count=99), InvalidArtifact),
        (VersionSpec("smol", "base", "import", architecture="Other"), InvalidArtifact),
        (VersionSpec("smol", "base", "import", version="1.0"), InvalidRequest),
        (VersionSpec("Smol", "base", "import"), InvalidRequest),
        (VersionSpec("smol", "base", "import", parent_version_id=uuid4()), ModelNotFound),
        (VersionSpec("smol", "adapter", "sft"), InvalidArtifact),
    ]
    for spec, error in cases:
        with pytest.raises(error):
            await desk.register(spec, folder)
    assert stored(tmp_path) == []
    async with desk.database.begin() as db:
        for table in ("models", "model_versions", "blobs", "audit_events"):
            count = (await db.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()
            assert count == 0, table


async def test_a_commit_whose_answer_is_lost_keeps_its_files(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = base_dir(tmp_path / "base")
    with monkeypatch.context() as losing:
        # The first one asks which files are known.
        lose_commit(losing, desk.database, 2)
        with pytest.raises(CommitUnknown):
            await desk.register(BASE, folder)
    version = await desk.registry(lambda registry: registry.resolve("smol"))
    assert version.version == "0.1.0"
    assert len(stored(tmp_path)) == len([each for each in folder.rglob("*") if each.is_file()])


async def test_an_adapter_needs_a_base_that_is_one(desk: Desk, tmp_path: Path) -> None:
    folder = adapter_dir(tmp_path / "a")
    with pytest.raises(InvalidRequest, match="needs the version of its base"):
        await desk.register(VersionSpec("bot", "adapter", "sft"), folder)
    base = await desk.register(BASE, base_dir(tmp_path / "b"))
    bot = await desk.register(VersionSpec("bot", "adapter", "sft", base_version_id=base.id), folder)
    with pytest.raises(InvalidRequest, match="is an adapter, not a base"):
        await desk.register(VersionSpec("bot", "adapter", "sft", base_version_id=bot.id), folder)
    with pytest.raises(Conflict, match="holds versions of kind base"):
        await desk.register(VersionSpec("smol", "adapter", "sft", base_version_id=base.id), folder)


async def test_explicit_versions_and_latest(desk: Desk, tmp_path: Path) -> None:
    for number in ("1.10.0", "1.9.0", "2.0.0-rc.1"):
        spec = VersionSpec("smol", "base", "import", version=number)
        await desk.register(spec, base_dir(tmp_path / number, seed=len(number)))
    assert (await desk.resolve("smol")).version == "1.10.0"
    assert (await desk.resolve("smol@2.0.0-rc.1")).pre == "rc.1"
    taken = VersionSpec("smol", "base", "import", version="1.9.0+other")
    with pytest.raises(VersionExists):
        await desk.register(taken, base_dir(tmp_path / "x", seed=9))
    bumped = await desk.register(
        VersionSpec("smol", "base", "import", bump="major"), base_dir(tmp_path / "y", seed=8)
    )
    assert bumped.version == "2.0.0"
    await desk.registry(lambda registry: registry.deprecate("smol", "2.0.0", True))
    assert (await desk.resolve("smol")).version == "1.10.0"
    assert (await desk.resolve("smol@2.0.0")).stage == "deprecated"


async def test_versions_page_in_order(desk: Desk, tmp_path: Path) -> None:
    numbers = ["0.9.0", "0.10.0", "1.0.0-rc.2", "1.0.0-rc.11", "1.0.0"]
    for number in numbers:
        spec = VersionSpec("smol", "base", "import", version=number)
        await desk.register(spec, base_dir(tmp_path / number))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await desk.registry(
            lambda registry, at=cursor: registry.list_versions(  # type: ignore[misc]
                "smol", cursor=at, limit=2
            )
        )
        seen += [version.version for version in page.data]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == numbers[::-1]


async def test_one_of_sixteen_racers_moves_the_alias(desk: Desk, tmp_path: Path) -> None:
    for seed in range(3):
        await desk.register(BASE, base_dir(tmp_path / f"b{seed}", seed=seed))

    async def outcome(version: str, expected: ModelVersion | None) -> str:
        target = expected.id if expected else None
        try:
            await desk.aliases(lambda a: a.set("smol", "production", version, target))
        except AliasMoved:
            return "moved"
        return "won"

    created = await asyncio.gather(*(outcome("0.1.0", None) for _ in range(16)))
    assert Counter(created) == {"won": 1, "moved": 15}
    first = await desk.resolve("smol@production")
    raced = await asyncio.gather(
        *(outcome("0.2.0" if i % 2 else "0.3.0", first) for i in range(16))
    )
    assert Counter(raced) == {"won": 1, "moved": 15}
    now = await desk.resolve("smol@production")
    back = await desk.aliases(lambda a: a.rollback("smol", "production", now.id))
    assert back.version == "0.1.0"
    assert back.row_version == 3


async def test_protected_and_reserved_aliases(desk: Desk, tmp_path: Path) -> None:
    await desk.register(BASE, base_dir(tmp_path / "b"))
    member = Desk(desk.database, desk.objects, with_role(desk.caller, Role.MEMBER))
    await member.aliases(lambda a: a.set("smol", "staging", "0.1.0", None))
    with pytest.raises(PermissionDenied, match="registry:promote"):
        await member.aliases(lambda a: a.set("smol", "production", "0.1.0", None))
    with pytest.raises(InvalidRequest, match="@latest is computed"):
        await desk.aliases(lambda a: a.set("smol", "latest", "0.1.0", None))
    with pytest.raises(ModelNotFound, match=r"no version 9\.9\.9"):
        await desk.aliases(lambda a: a.set("smol", "staging", "9.9.9", None))
    await desk.registry(lambda registry: registry.deprecate("smol", "0.1.0", True))
    with pytest.raises(Conflict, match="needs a ready version"):
        await desk.aliases(lambda a: a.set("smol", "canary", "0.1.0", None))


async def test_what_is_used_cannot_be_deleted(desk: Desk, tmp_path: Path) -> None:
    base = await desk.register(BASE, base_dir(tmp_path / "b"))
    spec = VersionSpec("bot", "adapter", "sft", base_version_id=base.id, parent_version_id=base.id)
    await desk.register(spec, adapter_dir(tmp_path / "a"))
    with pytest.raises(VersionInUse, match=r"bot@0\.1\.0"):
        await desk.registry(lambda registry: registry.tombstone("smol", "0.1.0"))
    await desk.aliases(lambda a: a.set("bot", "staging", "0.1.0", None))
    with pytest.raises(AliasInUse, match="@staging"):
        await desk.registry(lambda registry: registry.tombstone("bot", "0.1.0"))
    bot = await desk.resolve("bot")
    await desk.aliases(lambda a: a.delete("bot", "staging", bot.id))
    await desk.registry(lambda registry: registry.tombstone("bot", "0.1.0", "a test"))
    await desk.registry(lambda registry: registry.tombstone("bot", "0.1.0"))
    with pytest.raises(ModelNotFound):
        await desk.resolve("bot@0.1.0")
    with pytest.raises(ModelNotFound):
        await load_manifest(desk.database, bot.id)
    down = await desk.registry(lambda registry: registry.lineage("smol", "0.1.0", down=True))
    assert {version.reference for version in down.versions} == {"smol@0.1.0", "bot@0.1.0"}
    async with desk.database.begin() as db:
        query = text("SELECT sum(refcount) FROM blobs")
        assert (await db.execute(query)).scalar_one() == 3


@pytest.mark.parametrize(
    "change", ["digest = repeat('0', 64)", "major = 9", "lora_rank = 1", "created_by = 'x'"]
)
async def test_the_database_keeps_versions_as_they_are(
    desk: Desk, tmp_path: Path, change: str
) -> None:
    await desk.register(BASE, base_dir(tmp_path / "b"))
    with pytest.raises(DBAPIError, match="immutable"):
        async with desk.database.begin() as db:
            await db.execute(text(f"UPDATE model_versions SET {change}"))
    with pytest.raises(DBAPIError, match="append-only"):
        async with desk.database.begin() as db:
            await db.execute(text("DELETE FROM model_versions"))


async def test_tenants_do_not_see_each_other(desk: Desk, tmp_path: Path) -> None:
    version = await desk.register(BASE, base_dir(tmp_path / "b"))
    other = Desk(desk.database, desk.objects, principal())
    for call in (
        lambda: other.resolve("smol"),
        lambda: other.registry(lambda registry: registry.get(version.id)),
        lambda: other.registry(lambda registry: registry.manifest(version.id)),
        lambda: other.register(
            VersionSpec("bot", "adapter", "sft", base_version_id=version.id),
            adapter_dir(tmp_path / "a"),
        ),
    ):
        with pytest.raises(ModelNotFound):
            await call()
    own = await other.register(BASE, base_dir(tmp_path / "b"))
    assert own.version == "0.1.0"
    # Sharing blobs would tell one tenant what another one has.
    assert len(stored(tmp_path)) == 6
