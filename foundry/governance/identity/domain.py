"""Principals, roles and the permissions that follow from them."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

EVERYTHING = frozenset({"*:*"})


class Role(StrEnum):
    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


_VIEWER = frozenset({"*:read"})
_MEMBER = _VIEWER | {
    "inference:invoke",
    "jobs:*",
    "datasets:*",
    "registry:write",
    "endpoints:write",
    "budsim:run",
    "feedback:write",
}
_ADMIN = _MEMBER | {
    "users:*",
    "keys:*",
    "policies:*",
    "quotas:*",
    "registry:promote",
    "registry:import",
    "routes:*",
    "budsim:*",
    "audit:read",
    "audit:export",
    "maintenance:*",
}
PERMISSIONS: dict[Role, frozenset[str]] = {
    Role.VIEWER: _VIEWER,
    Role.MEMBER: _MEMBER,
    Role.ADMIN: _ADMIN,
}
# `*:read` does not reach these: they must be granted by name.
_NAMED_READS = frozenset({"audit:read"})
_RANK = {Role.VIEWER: 0, Role.MEMBER: 1, Role.ADMIN: 2}


def pattern_covers(pattern: str, permission: str) -> bool:
    """Whether `pattern` (`resource:action`, either may be `*`) covers `permission`."""
    resource, _, action = pattern.partition(":")
    wanted_resource, _, wanted_action = permission.partition(":")
    return resource in ("*", wanted_resource) and action in ("*", wanted_action)


def role_grants(role: Role, permission: str) -> bool:
    """Whether a role includes a permission, before its credential's scopes are looked at."""
    if permission in _NAMED_READS:
        return permission in PERMISSIONS[role]
    return any(pattern_covers(pattern, permission) for pattern in PERMISSIONS[role])


def are_within(scopes: frozenset[str], larger: frozenset[str]) -> bool:
    """Whether every scope is covered by one of `larger`."""
    return all(any(pattern_covers(outer, scope) for outer in larger) for scope in scopes)


@dataclass(frozen=True, slots=True)
class ModelPolicy:
    """Which models a credential may use.

    Attributes:
        models: registry names; None allows all.
    """

    models: frozenset[str] | None = None

    def allows_model(self, name: str) -> bool:
        return self.models is None or name in self.models


ALLOW_ALL = ModelPolicy()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking. Built by the auth stage, and by workers for the job they run.

    Attributes:
        subject: the stable id of the user, service account or job.
        credential_id: the key that proved it; the public part.
        scopes: what the credential is limited to; patterns like `jobs:*`.
        policy: the models that it may use.
    """

    tenant_id: UUID
    project_id: UUID
    subject: str
    subject_type: str
    credential_id: str
    role: Role
    scopes: frozenset[str] = EVERYTHING
    policy: ModelPolicy = ALLOW_ALL

    def allows(self, permission: str) -> bool:
        return role_grants(self.role, permission) and any(
            pattern_covers(scope, permission) for scope in self.scopes
        )

    def may_mint(self, role: Role, scopes: frozenset[str]) -> bool:
        """Whether this credential may make one with such rights: never one above itself."""
        return _RANK[role] <= _RANK[self.role] and are_within(scopes, self.scopes)


def job_principal(tenant_id: UUID, project_id: UUID, job_id: UUID) -> Principal:
    """The identity under which a job writes its results."""
    return Principal(
        tenant_id=tenant_id,
        project_id=project_id,
        subject=f"job:{job_id}",
        subject_type="job",
        credential_id="",
        role=Role.MEMBER,
        scopes=frozenset({"registry:write", "*:read"}),
    )
