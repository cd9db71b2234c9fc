"""A job's log while it runs: chunks of text in rows, bounded; `log_archive` keeps it afterwards."""

from collections.abc import Iterator

from foundry.execution.jobs.documents import storable_text
from foundry.execution.jobs.domain import MAX_LOG_BYTES, MAX_LOG_CHUNK_BYTES
from foundry.execution.jobs.repository import Leases
from foundry.execution.jobs.tables import Job

_CUT = "\n… the log ends here: a job keeps its first 4 MiB\n"


async def append_text(leases: Leases, job: Job, text: str) -> None:
    """Append in chunks of at most 16 KiB and 4 MiB in all."""
    seq, used = await leases.read_log_place(job)
    for chunk in _split_chunks(storable_text(text)):
        if used >= MAX_LOG_BYTES:
            return
        used += len(chunk.encode())
        seq += 1
        full = used >= MAX_LOG_BYTES
        await leases.add_log(job, seq, chunk + _CUT if full else chunk)


def _split_chunks(text: str) -> Iterator[str]:
    """Pieces of at most 16 KiB in UTF-8, never cut inside a character."""
    data = text.encode()
    start = 0
    while start < len(data):
        end = min(start + MAX_LOG_CHUNK_BYTES, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[start:end].decode()
        start = end
