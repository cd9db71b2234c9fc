"""A request's body on its way to the disk."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from foundry.errors import BodyTooLarge
from foundry.infra.directory_store import storage_error
from foundry.infra.scratch import scratch_directory

_BUFFER_BYTES = 1 << 20


@asynccontextmanager
async def receive_body(stream: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[Path]:
    """The body as a temporary file; memory stays at one buffer.

    Raises:
        BodyTooLarge: it exceeds `max_bytes`.
        DiskFull: no room for the file.
    """
    with scratch_directory("upload") as folder:
        path = folder / "body"
        try:
            with path.open("wb") as file:
                async for part in _gather_parts(stream, max_bytes):
                    await asyncio.to_thread(file.write, part)
        except OSError as error:
            raise storage_error(error, folder) from error
        yield path


async def _gather_parts(stream: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[bytes]:
    buffer, seen = bytearray(), 0
    async for chunk in stream:
        seen += len(chunk)
        if seen > max_bytes:
            raise BodyTooLarge(
                f"the file exceeds {max_bytes} bytes: split it into several datasets, or raise "
                "FOUNDRY_HTTP__MAX_UPLOAD_BYTES on the server",
                limit_bytes=max_bytes,
            )
        buffer += chunk
        if len(buffer) >= _BUFFER_BYTES:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer)
