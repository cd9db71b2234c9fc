"""Wire models of the audit trail."""

from datetime import datetime
from uuid import UUID

from pydantic import Field

from foundry.infra.schemas import Out, PageOut


class AuditEventOut(Out):
    """Something that was done, and by whom."""

    id: UUID
    at: datetime
    actor_type: str = Field(description="user, service or system")
    actor_id: str = Field(description="subject that did it")
    credential_id: str = Field(description="public part of the key that was shown")
    action: str = Field(description="what was done, like alias.set")
    resource_type: str = Field(description="kind of what it was done to, like model_alias")
    resource_id: str = Field(description="what it was done to")
    outcome: str = Field(description="success, or why not")
    request_id: str = Field(description="`x-request-id` of the request")
    before: dict[str, object] | None = Field(description="how it was; null: it was not there")
    after: dict[str, object] | None = Field(description="how it is; null: it is gone")
    reason: str | None


class AuditEventList(PageOut[AuditEventOut]):
    """A page of the audit trail, newest first."""
