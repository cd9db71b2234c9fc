"""Verification of API keys on every request, and their making and revocation."""

import asyncio
import hmac
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self, cast
from uuid import UUID

import bcrypt
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.config import SecuritySettings, Settings
from foundry.errors import (
    Conflict,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
)
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import (
    EVERYTHING,
    KeyState,
    Principal,
    Role,
    check_scopes,
)
from foundry.governance.identity.keys import (
    Token,
    mint_token,
    parse_authorization,
    parse_token,
    prefilter,
    verdict_key,
)
from foundry.governance.identity.pepper import load_pepper
from foundry.governance.identity.repository import (
    Keys,
    ensure_project,
    ensure_tenant,
    find_administrator_key,
    find_key,
)
from foundry.governance.identity.tables import ApiKey
from foundry.infra.cursors import DEFAULT_LIMIT, Page, decode, page_of
from foundry.infra.database import Database

_VERDICT_TTL_S = 60.0
_VERDICTS = 10_000
_BCRYPT_THREADS = 2
_BCRYPT_QUEUE = 64
_NAMESAKES = 10


def _invalid_key_error() -> Unauthenticated:
    # One message for unknown, wrong, revoked and expired: a stranger learns nothing.
    return Unauthenticated(
        "the API key is not valid: it is unknown, mistyped, revoked or expired; "
        "your administrator creates another with `foundry keys create`"
    )


def _missing_key_error() -> Unauthenticated:
    return Unauthenticated(
        "no API key was sent: send `Authorization: Bearer fk_…`, or set FOUNDRY_CLIENT__API_KEY "
        "for the `foundry` command; your administrator creates one with `foundry keys create`"
    )


class VerdictCache:
    """Positive verdicts of bcrypt only, least recently used first out."""

    def __init__(self, capacity: int = _VERDICTS, ttl_s: float = _VERDICT_TTL_S) -> None:
        self._capacity = capacity
        self._ttl_s = ttl_s
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def holds(self, key: bytes) -> bool:
        until = self._until.get(key)
        if until is None:
            return False
        if until < time.monotonic():
            del self._until[key]
            return False
        self._until.move_to_end(key)
        return True

    def add(self, key: bytes) -> None:
        self._until[key] = time.monotonic() + self._ttl_s
        self._until.move_to_end(key)
        while len(self._until) > self._capacity:
            self._until.popitem(last=False)


class Authenticator:
    """Turns an Authorization header into a principal; the key's row is read on every request."""

    def __init__(self, database: Database, pepper: bytes, settings: SecuritySettings) -> None:
        self._database = database
        self._pepper = pepper
        self._settings = settings
        self._verdicts = VerdictCache()
        self._running: dict[bytes, asyncio.Task[bool]] = {}
        self._threads = ThreadPoolExecutor(_BCRYPT_THREADS, thread_name_prefix="bcrypt")

    @classmethod
    def from_settings(cls, settings: Settings, database: Database) -> Self:
        """Check keys with this installation's pepper.

        Raises:
            SetupError: it is not set, missing or unsafe.
        """
        return cls(database, load_pepper(settings), settings.security)

    @property
    def pepper(self) -> bytes:
        return self._pepper

    @property
    def settings(self) -> SecuritySettings:
        return self._settings

    async def authenticate(self, authorization: str | None) -> Principal:
        """Find the principal whose key the header holds.

        Raises:
            Unauthenticated: none was sent, or one that cannot be used; why is not told.
            DatabaseUnavailable: no key can be checked.
            Overloaded: too many keys are being checked.
        """
        if not authorization:
            raise _missing_key_error()
        token = parse_authorization(authorization)
        if token is None:
            raise _invalid_key_error()
        async with self._database.begin() as db:
            row = await find_key(db, token.id)
        if row is None or not _is_usable(row, token, self._pepper):
            raise _invalid_key_error()
        if not await self._secret_fits(token, row.hash):
            raise _invalid_key_error()
        return Principal(
            tenant_id=row.tenant_id,
            project_id=row.project_id,
            subject=row.subject,
            subject_type=row.subject_type,
            credential_id=row.id,
            role=Role(row.role),
            scopes=frozenset(row.asked_scopes),
        )

    async def _secret_fits(self, token: Token, stored: str) -> bool:
        """Whether a secret fits its key, at the cost of one bcrypt per key, process and minute."""
        key = verdict_key(token, stored)
        if self._verdicts.holds(key):
            return True
        running = self._running.get(key)
        if running is None:
            if len(self._running) >= _BCRYPT_QUEUE:
                raise Overloaded("too many keys are being checked; retry after a moment")
            running = asyncio.create_task(self._check_secret(key, token.secret, stored))
            self._running[key] = running
        # Shielded: a caller that hangs up must not fail the others that wait for the same check.
        return await asyncio.shield(running)

    async def _check_secret(self, key: bytes, secret: str, stored: str) -> bool:
        try:
            loop = asyncio.get_running_loop()
            fits = await loop.run_in_executor(
                self._threads, bcrypt.checkpw, secret.encode(), stored.encode()
            )
        finally:
            del self._running[key]
        if fits:
            self._verdicts.add(key)
        return fits

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


async def find_working_key(db: AsyncSession, pepper: bytes, text: str) -> ApiKey | None:
    """Find the row of a key that works now, checked without any cache; None: it does not work."""
    token = parse_token(text)
    row = await find_key(db, token.id) if token else None
    if token is None or row is None or not _is_usable(row, token, pepper):
        return None
    fits = await asyncio.to_thread(bcrypt.checkpw, token.secret.encode(), row.hash.encode())
    return row if fits else None


async def require_no_administrator(db: AsyncSession) -> None:
    """Refuse where somebody may create keys already.

    Raises:
        Conflict: an administrator's key exists.
    """
    if (row := await find_administrator_key(db)) is not None:
        raise Conflict(
            f"an administrator's key exists ({row.id}, {row.name!r}): create others with it, by "
            "`foundry keys create`; docs/security.md tells what to do when it is lost"
        )


async def ensure_home_project(db: AsyncSession, tenant: str, project: str) -> tuple[UUID, UUID]:
    """Make a tenant and a project of it unless they are there, and return their ids."""
    tenant_id = await ensure_tenant(db, tenant)
    return tenant_id, await ensure_project(db, tenant_id, project)


def _is_usable(row: ApiKey, token: Token, pepper: bytes) -> bool:
    """Everything but bcrypt: what costs nothing comes first."""
    return (
        hmac.compare_digest(prefilter(pepper, token), row.prefilter)
        and row.revoked_at is None
        and row.expires_at > datetime.now(UTC)
    )


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A new key.

    Attributes:
        text: the key itself, for which nobody can ask again.
        namesakes: ids of older keys of this name that work as well.
    """

    row: ApiKey
    text: str = field(repr=False)
    namesakes: list[str]


class KeyRing:
    """Keys of the caller's tenant."""

    def __init__(
        self,
        db: AsyncSession,
        audit: AuditTrail,
        principal: Principal,
        pepper: bytes,
        settings: SecuritySettings,
    ) -> None:
        self._keys = Keys(db, principal.tenant_id)
        self._db = db
        self._audit = audit
        self._principal = principal
        self._pepper = pepper
        self._settings = settings

    async def create_key(
        self,
        *,
        name: str,
        role: Role,
        scopes: frozenset[str],
        expires_in_days: int,
        subject: str | None = None,
    ) -> MadeKey:
        """Make a key.

        Raises:
            InvalidRequest: a scope means nothing, or nothing to this role.
            PermissionDenied: role or scopes exceed the caller's own.
        """
        check_scopes(role, scopes)
        if not self._principal.may_mint(role, scopes):
            raise PermissionDenied(
                "a key cannot be more powerful than the key that creates it, which has the role "
                f"{self._principal.role} and the scopes {', '.join(sorted(self._principal.scopes))}"
            )
        namesakes = await self._keys.list_namesakes(name, _NAMESAKES)
        token = mint_token()
        row = ApiKey(
            id=token.id,
            tenant_id=self._principal.tenant_id,
            project_id=self._principal.project_id,
            name=name,
            environment=token.environment,
            hash=await asyncio.to_thread(_hash_secret, token.secret, self._settings.bcrypt_cost),
            prefilter=prefilter(self._pepper, token),
            subject=subject or self._principal.subject,
            subject_type="service_account" if subject else self._principal.subject_type,
            role=role.value,
            asked_scopes=sorted(scopes),
            created_by=self._principal.subject,
            expires_at=await self._keys.now() + timedelta(days=expires_in_days),
        )
        self._keys.add(row)
        await self._db.flush()
        after = {"name": name, "role": role, "scopes": scopes, "subject": row.subject}
        await self._audit.record("key.create", "key", row.id, after=dict(after))
        return MadeKey(row, token.text, list(namesakes))

    async def list_keys(
        self, cursor: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[ApiKey]:
        """List the tenant's keys for an administrator, and their own for others."""
        everybody = self._principal.allows("keys:write")
        after = decode(cursor, (datetime, str))
        rows = await self._keys.list_page(
            None if everybody else self._principal.subject,
            cast("tuple[datetime, str] | None", after),
            limit + 1,
        )
        return page_of(rows, limit, lambda key: (key.created_at, key.id))

    async def revoke_key(self, key_id: str) -> ApiKey:
        """Revoke a key from its next request on, everywhere.

        Raises:
            NotFound: no such key in this tenant.
            Conflict: it is revoked, or nobody could create keys without it.
        """
        row = await self._keys.get(key_id, lock=True)
        if row is None:
            raise NotFound(f"there is no key {key_id}: `foundry keys list` shows yours")
        if row.revoked_at is not None:
            raise Conflict(
                f"the key {row.id} ({row.name}) was revoked at {row.revoked_at:%F %T} UTC"
            )
        await self._require_successor(row)
        row.revoked_at = await self._keys.now()
        await self._db.flush()
        await self._audit.record("key.revoke", "key", row.id)
        return row

    async def _require_successor(self, row: ApiKey) -> None:
        administers = row.role == Role.ADMIN and set(row.asked_scopes) >= EVERYTHING
        works = row.state == KeyState.ACTIVE
        if administers and works and await self._keys.find_other_administrator(row.id) is None:
            raise Conflict(
                f"the key {row.id} ({row.name}) is the last one that may create others: create its "
                "successor first, by `foundry keys create NAME --role admin`"
            )


def _hash_secret(secret: str, cost: int) -> str:
    return bcrypt.hashpw(secret.encode(), bcrypt.gensalt(cost)).decode()
