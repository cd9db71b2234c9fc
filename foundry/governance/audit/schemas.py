"""Wire models of the audit trail."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict


class AuditEventOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    at: datetime
    actor_type: str
    actor_id: str
    credential_id: str
    action: str
    resource_type: str
    resource_id: str
    outcome: str
    request_id: str
    before: dict[str, object] | None
    after: dict[str, object] | None
    reason: str | None


class AuditEventList(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    data: list[AuditEventOut]
    next_cursor: str | None
