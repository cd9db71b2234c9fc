"""Audit rows: what they hold, and that they share the fate of their transaction."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from foundry.governance.audit.domain import to_json_object
from foundry.governance.audit.service import AuditTrail
from foundry.governance.identity.domain import Role
from foundry.infra.database import Database
from tests.governance.identity.principals import principal


def test_values_become_plain_json() -> None:
    values: dict[str, object] = {
        "id": UUID(int=1),
        "role": Role.ADMIN,
        "at": datetime(2026, 1, 2, tzinfo=UTC),
        "scopes": ("a", "b"),
        "nested": {"text": "a\0b" + "x" * 10_000},
        "count": 3,
    }
    plain = to_json_object(values)
    assert plain is not None
    nested = plain.pop("nested")
    assert plain == {
        "id": "00000000-0000-0000-0000-000000000001",
        "role": "admin",
        "at": "2026-01-02T00:00:00+00:00",
        "scopes": ["a", "b"],
        "count": 3,
    }
    assert isinstance(nested, dict)
    assert nested["text"].startswith("abxxx")
    assert len(nested["text"]) < 8200
    assert to_json_object(None) is None


@pytest.mark.postgres
async def test_a_row_lives_and_dies_with_its_transaction(database: Database) -> None:
    caller, stranger = principal(), principal()
    with pytest.raises(RuntimeError):
        async with database.begin() as db:
            await AuditTrail(db, caller, "r1").record("model.create", "model", "m")
            raise RuntimeError
    for number in range(5):
        async with database.begin() as db:
            await AuditTrail(db, caller, f"r{number}").record(
                "alias.set", "model_alias", "m@x", before={"n": number}
            )
    async with database.begin() as db:
        trail = AuditTrail(db, caller, "")
        first = await trail.list_events(resource_type="model_alias", limit=3)
        second = await trail.list_events(
            resource_type="model_alias", limit=3, cursor=first.next_cursor
        )
        assert len(first.data) == 3
        assert second.next_cursor is None
        seen = {event.request_id for event in [*first.data, *second.data]}
        assert seen == {"r0", "r1", "r2", "r3", "r4"}
        assert {event.actor_id for event in first.data} == {"ada"}
        assert (await AuditTrail(db, stranger, "").list_events()).data == []
