"""First start: the schema, one tenant, one project and the administrator's key.

Run as `python -m foundry.control.bootstrap`; prints one JSON line, `{"api_key": "fk_live_…"}`, or
null when `credentials.json` holds an administrator's key that still works. `foundry keys bootstrap`
is the way without a home, once for a database.
"""

import asyncio
import json
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from foundry.config import Settings, load_settings
from foundry.errors import FoundryError, SetupError
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import EVERYTHING, Principal, Role
from foundry.governance.identity.pepper import prepare_pepper
from foundry.governance.identity.service import (
    KeyRing,
    ensure_home_project,
    find_working_key,
    require_no_administrator,
)
from foundry.infra.database_roles import DatabaseRole
from foundry.infra.ids import uuid7
from foundry.infra.migrations import upgrade
from foundry.infra.wiring import database_url, open_database

_TENANT, _PROJECT = "default", "default"
_KEY_NAME = "first administrator"
_KEY_DAYS = 90
# A key about to expire is replaced on `up`, so that it does not stop working in between.
_RENEW_BEFORE = timedelta(days=7)
_LOCK = 0x626F6F74


@dataclass(frozen=True, slots=True)
class FirstKey:
    """Shown once; the caller stores it in credentials.json."""

    id: str
    api_key: str = field(repr=False)


async def initialise_home(settings: Settings) -> FirstKey | None:
    """Make a home usable; idempotent, and safe to run from several processes at once.

    Returns:
        A new administrator's key, or None: the stored one works.

    Raises:
        DatabaseUnavailable: PostgreSQL cannot be reached.
        SetupError: the pepper cannot be used.
    """
    pepper = prepare_pepper(settings)
    await upgrade(database_url(settings, DatabaseRole.MIGRATE))
    async with open_database(settings) as database, database.begin() as db:
        await db.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        if await _has_working_key(db, settings, pepper):
            return None
        return await _create_first_key(db, settings, pepper)


async def create_first_key(settings: Settings) -> FirstKey:
    """Make the first administrator's key of a database that no `foundry up` takes care of.

    Migrates first. The key is in no file: whoever calls this shows it.

    Raises:
        Conflict: an administrator's key exists.
        DatabaseUnavailable: PostgreSQL cannot be reached.
        SetupError: the pepper cannot be used.
    """
    pepper = prepare_pepper(settings)
    await upgrade(database_url(settings, DatabaseRole.MIGRATE))
    async with open_database(settings) as database, database.begin() as db:
        await db.execute(select(func.pg_advisory_xact_lock(_LOCK)))
        await require_no_administrator(db)
        return await _create_first_key(db, settings, pepper)


async def _has_working_key(db: AsyncSession, settings: Settings, pepper: bytes) -> bool:
    stored = read_stored_key(settings.home)
    if stored is None:
        return False
    key = await find_working_key(db, pepper, stored)
    return (
        key is not None
        and key.role == Role.ADMIN
        and key.expires_at > datetime.now(UTC) + _RENEW_BEFORE
    )


async def _create_first_key(db: AsyncSession, settings: Settings, pepper: bytes) -> FirstKey:
    tenant_id, project_id = await ensure_home_project(db, _TENANT, _PROJECT)
    principal = Principal(
        tenant_id=tenant_id,
        project_id=project_id,
        subject="admin",
        subject_type="user",
        credential_id="bootstrap",
        role=Role.ADMIN,
    )
    audit = AuditTrail(db, principal, str(uuid7()))
    keys = KeyRing(db, audit, principal, pepper, settings.security)
    made = await keys.create_key(
        name=_KEY_NAME, role=Role.ADMIN, scopes=EVERYTHING, expires_in_days=_KEY_DAYS
    )
    return FirstKey(made.row.id, made.text)


def read_stored_key(home: Path) -> str | None:
    """The key in credentials.json; None: there is none to be read."""
    try:
        document = json.loads((home / "credentials.json").read_bytes())
    except (OSError, ValueError):
        return None
    key = document.get("api_key") if isinstance(document, dict) else None
    return key if isinstance(key, str) else None


def main() -> None:
    try:
        first = asyncio.run(initialise_home(load_settings()))
    except FoundryError as error:
        sys.stderr.write(f"{error.message}\n")
        sys.exit(2 if isinstance(error, SetupError) else 1)
    sys.stdout.write(json.dumps({"api_key": first.api_key if first else None}) + "\n")


if __name__ == "__main__":
    main()
