"""Wire models of API keys."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from foundry.governance.identity.domain import Role as Role


class KeyCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=128, description="what the key is for")
    role: Role = Role.MEMBER
    scopes: list[str] = Field(
        default=["*:*"],
        min_length=1,
        max_length=32,
        description="permissions it is limited to, like `inference:invoke` or `jobs:*`",
    )
    expires_in_days: int = Field(default=90, ge=1, le=366)
    subject: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9._@:-]{0,127}$",
        description="the service account it acts for; default: the caller",
    )


class KeyOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str = Field(description="the public part, as in fk_live_<id>_…")
    name: str
    subject: str
    role: Role
    scopes: list[str]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


class KeyCreated(KeyOut):
    key: str = Field(description="the key itself; shown this once")


class KeyList(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    data: list[KeyOut]
    next_cursor: str | None


class WhoAmI(BaseModel):
    """What the presented key may do."""

    tenant_id: str
    project_id: str
    subject: str
    role: Role
    scopes: list[str]
    key_id: str
