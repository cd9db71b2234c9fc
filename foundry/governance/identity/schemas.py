"""Wire models of API keys."""

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from foundry.governance.identity.domain import KeyState
from foundry.governance.identity.domain import Role as Role
from foundry.infra.schemas import Out, PageOut

DEFAULT_DAYS, MAX_DAYS = 90, 366


def _require_one_line(name: str) -> str:
    # It is shown in lists, on terminals among other places.
    if not name.isprintable() or not name.strip():
        raise ValueError("a name is one line of printable characters")
    return name.strip()


class KeyCreate(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(_require_one_line)] = Field(
        min_length=1,
        max_length=128,
        description="what the key is for; several keys may have one name",
    )
    role: Role = Role.MEMBER
    scopes: list[str] = Field(
        default=["*:*"],
        min_length=1,
        max_length=32,
        description="permissions it is limited to, like `inference:invoke` or `jobs:*`",
    )
    expires_in_days: int = Field(
        default=DEFAULT_DAYS, ge=1, le=MAX_DAYS, description="days after which it is refused"
    )
    subject: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9._@:-]{0,127}$",
        description="the service account it acts for; default: the caller",
    )


class KeyOut(Out):
    """A key, without its secret part."""

    id: str = Field(description="the public part, as in fk_live_<id>_…")
    name: str
    subject: str
    role: Role
    scopes: list[str] = Field(
        description="what it is limited to, without what its role does not have"
    )
    permissions: list[str] = Field(
        description="what the key may do: what its role has and its scopes cover"
    )
    limited: bool = Field(description="whether its scopes take something from its role")
    state: KeyState = Field(description="active, expired or revoked")
    created_at: datetime
    expires_at: datetime = Field(description="when it is refused from, with time zone")
    revoked_at: datetime | None = Field(description="when it was revoked; null: it was not")


class KeyCreated(KeyOut):
    """A new key, with its secret part."""

    key: str = Field(description="the key itself; shown this once")
    namesakes: list[str] = Field(
        description="ids of older keys with this name that work as well, the newest ten at most"
    )


class KeyList(PageOut[KeyOut]):
    """A page of keys."""


class WhoAmI(BaseModel):
    """What the presented key may do."""

    tenant_id: str = Field(description="whose data it reaches")
    project_id: str = Field(description="project that it works in")
    subject: str
    role: Role
    scopes: list[str]
    permissions: list[str] = Field(
        description="what it may do: its role's permissions within its scopes"
    )
    key_id: str
