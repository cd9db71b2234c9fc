"""Principals, roles and the permissions that follow from them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from foundry.errors import InvalidRequest

EVERYTHING = frozenset({"*:*"})


class Role(StrEnum):
    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"


class KeyState(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


# Every permission of the product, and the lowest role that has it. An application whose routes
# declare another does not start, and a key cannot be limited to another.
PERMISSIONS: Mapping[str, Role] = {
    "audit:read": Role.ADMIN,
    "budsim:admin": Role.ADMIN,
    "budsim:read": Role.VIEWER,
    "budsim:run": Role.MEMBER,
    "capabilities:read": Role.VIEWER,
    "datasets:read": Role.VIEWER,
    "datasets:write": Role.MEMBER,
    "endpoints:read": Role.VIEWER,
    "endpoints:write": Role.MEMBER,
    "inference:invoke": Role.MEMBER,
    "jobs:read": Role.VIEWER,
    "jobs:write": Role.MEMBER,
    "keys:read": Role.VIEWER,
    "keys:write": Role.ADMIN,
    "models:read": Role.VIEWER,
    "registry:import": Role.ADMIN,
    "registry:promote": Role.ADMIN,
    "registry:write": Role.MEMBER,
}
_RANK = {Role.VIEWER: 0, Role.MEMBER: 1, Role.ADMIN: 2}


def pattern_covers(pattern: str, permission: str) -> bool:
    """Whether `pattern` (`resource:action`, either may be `*`) covers `permission`."""
    resource, _, action = pattern.partition(":")
    wanted_resource, _, wanted_action = permission.partition(":")
    return resource in ("*", wanted_resource) and action in ("*", wanted_action)


def role_grants(role: Role, permission: str) -> bool:
    """Whether a role includes a permission, before its credential's scopes are looked at."""
    lowest = PERMISSIONS.get(permission)
    return lowest is not None and _RANK[role] >= _RANK[lowest]


def expand_scope(scope: str) -> list[str]:
    """The permissions that a pattern covers; none: it means nothing."""
    return [permission for permission in PERMISSIONS if pattern_covers(scope, permission)]


def list_granted(role: Role, scopes: Iterable[str] = EVERYTHING) -> list[str]:
    """What a credential may do: its role's permissions, as far as its scopes cover them."""
    covered = {permission for scope in scopes for permission in expand_scope(scope)}
    return [name for name in PERMISSIONS if name in covered and role_grants(role, name)]


def narrow_scopes(role: Role, scopes: Iterable[str]) -> list[str]:
    """The scopes without what the role does not have, sorted.

    A pattern of which the role has all stays as it is; of another the permissions are named that
    are left, so that a viewer's `*:*` does not read like an administrator's.
    """
    narrowed: set[str] = set()
    for scope in scopes:
        covered = expand_scope(scope)
        left = [permission for permission in covered if role_grants(role, permission)]
        narrowed.update([scope] if covered and left == covered else left)
    return sorted(narrowed)


def check_scopes(role: Role, scopes: Iterable[str]) -> None:
    """Refuse scopes that limit a credential to nothing.

    Raises:
        InvalidRequest: a scope names no permission, or none that the role has.
    """
    for scope in sorted(scopes):
        covered = expand_scope(scope)
        if not covered:
            raise InvalidRequest(
                f"scopes: there is no permission {scope[:64]!r}: choose from "
                f"{', '.join(PERMISSIONS)}, or a pattern of them like jobs:*",
                param="scopes",
            )
        if not any(role_grants(role, permission) for permission in covered):
            lowest = min((PERMISSIONS[name] for name in covered), key=_RANK.__getitem__)
            raise InvalidRequest(
                f"scopes: {scope} gives a {role} nothing: it takes the role {lowest}; "
                f"a {role} has {', '.join(list_granted(role))}",
                param="scopes",
            )


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
