"""The log of an ended job in the object store, and the one way to read a log wherever it lies.

    rows ──the job has ended──> one object, a line of JSON per chunk; the rows are removed
    rows of a resumed job ──it has ended again──> a new object with both; the older one is removed

Numbers of chunks go on, so a reader who asks for those after the last one notices nothing.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from foundry.errors import NotFound
from foundry.execution.jobs.domain import ENDED
from foundry.execution.jobs.repository import JobRows, Leases
from foundry.execution.jobs.tables import Job, JobLog
from foundry.governance.identity.domain import Principal
from foundry.infra.database import Database
from foundry.infra.ids import uuid7
from foundry.infra.objects import ObjectStore

_LOST = "(the log up to here is not in the object store any more)\n"


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of a log.

    Attributes:
        seq: its number; they grow.
        at: when it was written.
    """

    seq: int
    text: str
    at: datetime


class JobLogs:
    """Logs of jobs of the principal's project, archived or not."""

    def __init__(self, database: Database, objects: ObjectStore, principal: Principal) -> None:
        self._database = database
        self._objects = objects
        self._principal = principal

    async def read(self, job_id: UUID, *, after: int, limit: int) -> Sequence[LogChunk]:
        """Chunks with numbers above `after`, in order.

        Raises:
            NotFound: there is no such job.
        """
        async with self._database.begin() as db:
            rows = JobRows(db, self._principal.tenant_id, self._principal.project_id)
            # Before the job: chunks that are archived in between are then in one of the two.
            found = _make_chunks(await rows.list_log(job_id, after, limit))
            job = await rows.get(job_id)
        if job is None:
            raise NotFound(f"there is no job {job_id}: `foundry jobs list` shows yours")
        if job.log_key is None or after >= job.log_seq:
            return found
        archived = await read_archive(self._objects, job)
        merged = {chunk.seq: chunk for chunk in (*archived, *found) if chunk.seq > after}
        return [merged[seq] for seq in sorted(merged)[:limit]]


async def read_archive(objects: ObjectStore, job: Job) -> list[LogChunk]:
    """The archived part of a job's log; none if nothing is, and a word in its place if it is lost.

    A store that was restored from a backup must keep neither the reader from what came later nor
    the collector from its turns.
    """
    if job.log_key is None or job.log_seq == 0:
        return []
    try:
        data = await objects.get_bytes(job.log_key)
    except NotFound:
        return [LogChunk(job.log_seq, _LOST, job.finished_at or job.created_at)]
    return await asyncio.to_thread(_decode_chunks, data)


async def archive_log(database: Database, objects: ObjectStore, job: Job) -> bool:
    """Move an ended job's log to the object store. False: it was resumed meanwhile.

    Args:
        job: as it was listed.
    """
    async with database.begin() as db:
        rows = _make_chunks(await Leases(db).list_log(job.id))
    if not rows:
        return True
    chunks = [*await read_archive(objects, job), *rows]
    # A new key each time: what a killed turn has left is an orphan and no obstacle.
    key = f"logs/{job.tenant_id}/{job.id}/{uuid7()}.jsonl"
    await objects.put_bytes(key, await asyncio.to_thread(_encode_chunks, chunks))
    archived = await _record_archive(database, job, key, chunks)
    stale = job.log_key if archived else key
    if stale is not None:
        await objects.delete(stale)
    return archived


async def _record_archive(
    database: Database, job: Job, key: str, chunks: Sequence[LogChunk]
) -> bool:
    last, size = chunks[-1].seq, sum(len(chunk.text.encode()) for chunk in chunks)
    async with database.begin() as db:
        leases = Leases(db)
        archived = await leases.move(
            job.id, ENDED, held=job.fence, log_key=key, log_seq=last, log_bytes=size
        )
        if archived is None:
            return False
        await leases.remove_log(job.id, last)
        return True


def _make_chunks(rows: Sequence[JobLog]) -> list[LogChunk]:
    return [LogChunk(row.seq, row.text, row.at) for row in rows]


def _encode_chunks(chunks: Sequence[LogChunk]) -> bytes:
    documents = ({"seq": c.seq, "at": c.at.isoformat(), "text": c.text} for c in chunks)
    return "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in documents).encode()


def _decode_chunks(data: bytes) -> list[LogChunk]:
    documents = (json.loads(line) for line in data.decode().split("\n") if line)
    return [
        LogChunk(each["seq"], each["text"], datetime.fromisoformat(each["at"]))
        for each in documents
    ]
