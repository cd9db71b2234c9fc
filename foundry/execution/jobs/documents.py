"""What PostgreSQL can keep of a document that a driver, a library or a user wrote."""

import math
from collections.abc import Mapping


def storable_document(document: Mapping[str, object]) -> dict[str, object]:
    """The same document as JSONB takes it: storable text, and null for NaN and infinity."""
    return {storable_text(str(name)): _make_storable(value) for name, value in document.items()}


def storable_text(text: str) -> str:
    """The same text without NUL, and with "?" for lone surrogates, of undecodable output."""
    return text.replace("\0", "").encode("utf-8", errors="replace").decode()


def _make_storable(value: object) -> object:
    if isinstance(value, str):
        return storable_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return storable_document(value)
    if isinstance(value, list | tuple):
        return [_make_storable(each) for each in value]
    return value
