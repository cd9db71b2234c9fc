"""What an audit row says."""

from datetime import date, datetime
from enum import Enum
from typing import Protocol
from uuid import UUID

_MAX_TEXT = 8192


class Actor(Protocol):
    """Who did what is recorded; identity's `Principal` is one."""

    @property
    def tenant_id(self) -> UUID: ...

    @property
    def project_id(self) -> UUID: ...

    @property
    def subject(self) -> str: ...

    @property
    def subject_type(self) -> str: ...

    @property
    def credential_id(self) -> str: ...


def to_json(value: object) -> object:
    """`value` as JSON holds it; long text is cut, so that a row stays small."""
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    if isinstance(value, Enum):
        return to_json(value.value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str):
        # PostgreSQL refuses NUL in text.
        return value[:_MAX_TEXT].replace("\0", "")
    return value


def to_json_object(values: dict[str, object] | None) -> dict[str, object] | None:
    return None if values is None else {key: to_json(value) for key, value in values.items()}
