"""Callers for tests."""

from dataclasses import replace
from uuid import UUID, uuid4

from foundry.governance.identity.domain import EVERYTHING, Principal, Role


def principal(
    role: Role = Role.ADMIN, *, tenant_id: UUID | None = None, project_id: UUID | None = None
) -> Principal:
    return Principal(
        tenant_id=tenant_id or uuid4(),
        project_id=project_id or uuid4(),
        subject="ada",
        subject_type="user",
        credential_id="testkey00000",
        role=role,
        scopes=EVERYTHING,
    )


def with_role(caller: Principal, role: Role) -> Principal:
    return replace(caller, role=role)
