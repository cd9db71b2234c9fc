"""Verification step by step, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import bcrypt
import pytest
from sqlalchemy import text

from foundry.errors import Conflict, InvalidRequest, NotFound, PermissionDenied, Unauthenticated
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Principal, Role
from foundry.governance.identity.keys import checksum, mint_token
from foundry.governance.identity.service import Authenticator, KeyRing, VerdictCache
from foundry.infra.database import Database
from tests.control.client import PEPPER, SECURITY, administrator, new_key

pytestmark = pytest.mark.postgres


class CountedBcrypt:
    """Counts the expensive step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self._check = bcrypt.checkpw
        monkeypatch.setattr(bcrypt, "checkpw", self)

    def __call__(self, secret: bytes, stored: bytes) -> bool:
        self.calls += 1
        return self._check(secret, stored)


@pytest.fixture
async def admin(database: Database) -> Principal:
    return await administrator(database, "acme")


@pytest.fixture
async def authenticator(database: Database) -> AsyncIterator[Authenticator]:
    made = Authenticator(database, PEPPER, SECURITY)
    yield made
    made.close()


async def test_a_key_becomes_its_principal(
    database: Database, admin: Principal, authenticator: Authenticator
) -> None:
    key_id, key = await new_key(database, admin, Role.MEMBER, frozenset({"jobs:*"}))
    found = await authenticator.authenticate(f"Bearer {key}")
    assert found == Principal(
        admin.tenant_id,
        admin.project_id,
        "admin",
        "user",
        key_id,
        Role.MEMBER,
        frozenset({"jobs:*"}),
    )


async def test_one_bcrypt_for_many_requests(
    database: Database,
    admin: Principal,
    authenticator: Authenticator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, key = await new_key(database, admin)
    counted = CountedBcrypt(monkeypatch)
    await asyncio.gather(*(authenticator.authenticate(f"Bearer {key}") for _ in range(32)))
    await authenticator.authenticate(f"Bearer {key}")
    assert counted.calls == 1


async def test_wrong_secrets_cost_no_bcrypt(
    database: Database,
    admin: Principal,
    authenticator: Authenticator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key_id, _ = await new_key(database, admin)
    counted = CountedBcrypt(monkeypatch)
    for _ in range(50):
        head = f"fk_live_{key_id}_{mint_token().secret}"
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(f"Bearer {head}{checksum(head)}")
    assert counted.calls == 0


async def test_unknown_wrong_revoked_and_expired_look_the_same(
    database: Database, admin: Principal, authenticator: Authenticator
) -> None:
    revoked_id, revoked = await new_key(database, admin)
    expired_id, expired = await new_key(database, admin)
    for key in (revoked, expired):
        await authenticator.authenticate(f"Bearer {key}")
    async with database.begin() as db:
        await db.execute(
            text("UPDATE api_keys SET revoked_at = now() WHERE id = :id"), {"id": revoked_id}
        )
        past = datetime.now(UTC) - timedelta(seconds=1)
        await db.execute(
            text("UPDATE api_keys SET expires_at = :past WHERE id = :id"),
            {"id": expired_id, "past": past},
        )
    messages = set()
    for header in (
        "Basic x",
        f"Bearer {mint_token().text}",
        f"Bearer {revoked}",
        f"Bearer {expired}",
    ):
        with pytest.raises(Unauthenticated) as caught:
            await authenticator.authenticate(header)
        messages.add(caught.value.message)
    assert len(messages) == 1
    for nothing in (None, ""):
        with pytest.raises(Unauthenticated, match="no API key was sent"):
            await authenticator.authenticate(nothing)


async def test_another_pepper_refuses_every_key(database: Database, admin: Principal) -> None:
    _, key = await new_key(database, admin)
    stranger = Authenticator(database, bytes(32), SECURITY)
    with pytest.raises(Unauthenticated):
        await stranger.authenticate(f"Bearer {key}")
    stranger.close()


async def test_the_secret_is_not_stored(database: Database, admin: Principal) -> None:
    _, key = await new_key(database, admin)
    async with database.begin() as db:
        row = (await db.execute(text("SELECT api_keys::text FROM api_keys"))).scalar_one()
    assert key[21:64] not in row
    assert "$2b$04$" in row


async def test_a_member_cannot_mint_an_administrator(database: Database, admin: Principal) -> None:
    member = Principal(admin.tenant_id, admin.project_id, "m", "user", "k", Role.MEMBER)
    with pytest.raises(PermissionDenied):
        await new_key(database, member, Role.ADMIN)
    with pytest.raises(InvalidRequest, match="there is no permission 'everything'"):
        await new_key(database, admin, Role.MEMBER, frozenset({"everything"}))


async def revoke(database: Database, admin: Principal, key_id: str) -> None:
    async with database.begin() as db:
        await KeyRing(db, AuditTrail(db, admin, "test"), admin, PEPPER, SECURITY).revoke_key(key_id)


async def test_the_last_administrators_key_is_not_revoked(
    database: Database, admin: Principal
) -> None:
    first, _ = await new_key(database, admin)
    await new_key(database, admin, Role.ADMIN, frozenset({"keys:*"}))
    await new_key(database, admin, Role.MEMBER)
    await new_key(database, await administrator(database, "another tenant"))
    with pytest.raises(Conflict, match=f"the key {first} .* is the last one that may create"):
        await revoke(database, admin, first)
    second, _ = await new_key(database, admin)
    outcomes = await asyncio.gather(
        *(revoke(database, admin, key_id) for key_id in (first, second)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes if outcome] == [Conflict]


async def test_an_expired_key_is_no_successor_and_can_be_revoked(
    database: Database, admin: Principal
) -> None:
    first, _ = await new_key(database, admin)
    expired, _ = await new_key(database, admin)
    async with database.begin() as db:
        await db.execute(
            text("UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE id = :id"),
            {"id": expired},
        )
    with pytest.raises(Conflict, match="the last one"):
        await revoke(database, admin, first)
    await revoke(database, admin, expired)
    with pytest.raises(Conflict, match=r"was revoked at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"):
        await revoke(database, admin, expired)
    with pytest.raises(NotFound, match="there is no key nobody"):
        await revoke(database, admin, "nobody")


def test_verdicts_are_bounded_and_expire() -> None:
    cache = VerdictCache(capacity=2, ttl_s=60)
    for name in (b"a", b"b", b"c"):
        cache.add(name)
    assert [cache.holds(name) for name in (b"a", b"b", b"c")] == [False, True, True]
    stale = VerdictCache(capacity=2, ttl_s=-1)
    stale.add(b"a")
    assert not stale.holds(b"a")
