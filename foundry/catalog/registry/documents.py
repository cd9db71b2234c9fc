"""Small files of a registered version, read without fetching the rest."""

import asyncio
import json
from typing import Any

from foundry.catalog.registry.domain import Manifest
from foundry.errors import FoundryError, Unavailable
from foundry.infra.objects import ObjectStore

# A transaction is open meanwhile: a store that takes longer counts as one that does not answer.
_READ_S = 2.0


async def read_document(
    objects: ObjectStore, manifest: Manifest, path: str, *, most_bytes: int = 2**20
) -> dict[str, Any] | None:
    """The object that a file holds; None: it is not there, too large, or holds none.

    Raises:
        Unavailable: the store does not answer.
    """
    text = await read_text(objects, manifest, path, most_bytes=most_bytes)
    try:
        document = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


async def read_text(
    objects: ObjectStore, manifest: Manifest, path: str, *, most_bytes: int = 2**20
) -> str | None:
    """The text of a file; None: it is not there, too large, or not UTF-8.

    Raises:
        Unavailable: the store does not answer.
    """
    file = next((each for each in manifest.files if each.path == path), None)
    if file is None or file.size > most_bytes:
        return None
    try:
        async with asyncio.timeout(_READ_S):
            content = await objects.get_bytes(file.object_key)
    except (TimeoutError, FoundryError, OSError) as error:
        raise Unavailable(f"{path} cannot be read: the object store does not answer") from error
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
