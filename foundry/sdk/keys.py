"""API keys."""

from collections.abc import Sequence

from foundry.governance.identity.schemas import KeyCreate, KeyCreated, KeyOut, Role
from foundry.sdk._transport import Call, Resource, S_co, operation, pages, path
from foundry.sdk.paging import Page


class Keys(Resource[S_co]):
    @operation("keys_create")
    def create(
        self,
        name: str,
        *,
        role: Role | str = Role.MEMBER,
        scopes: Sequence[str] = ("*:*",),
        expires_in_days: int = 90,
        subject: str | None = None,
    ) -> Call[KeyCreated]:
        """A new key; its text is in this answer only.

        Args:
            scopes: permissions it is limited to, like `inference:invoke` or `jobs:*`.
            subject: the service account it acts for; None: the caller.
        """
        body = KeyCreate.model_validate(
            {
                "name": name,
                "role": role,
                "scopes": list(scopes),
                "expires_in_days": expires_in_days,
                "subject": subject,
            }
        )
        return Call("POST", path("keys"), KeyCreated, body=body)

    @pages("keys_list")
    def list(self, *, cursor: str | None = None, limit: int = 50) -> Call[Page[KeyOut]]:
        return Call("GET", path("keys"), Page[KeyOut], {"cursor": cursor, "limit": limit})

    @operation("keys_revoke")
    def revoke(self, key_id: str) -> Call[KeyOut]:
        """Refuse a key from now on. `key_id` is its public part."""
        return Call("DELETE", path("keys", key_id), KeyOut)
