"""Checkpoints of a job in the object store, for every node and every attempt.

Whole or absent: the tensors go up first, under a key that is never used again; then a row names
them, written under the attempt's fence. An attempt that is over writes a file that nothing names.
Superseded ones are collected when a newer one is named.

    upload <job>/<fence>-<step>-<id>  ──>  row (fenced)  ──>  delete older objects  ──>  their rows
"""

import asyncio
import hashlib
import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

from safetensors import SafetensorError
from safetensors.torch import load_file

from foundry.config import Settings
from foundry.engines.training.checkpoint import Checkpoint, RunState
from foundry.engines.training.files import write_tensors
from foundry.errors import FoundryError, NotFound, Unavailable
from foundry.execution.jobs.checkpoints import CheckpointLog, StoredCheckpoint
from foundry.infra.database import Database, is_rolled_back
from foundry.infra.ids import uuid7
from foundry.infra.objects import ObjectStore
from foundry.infra.wiring import open_database, open_objects

_KEPT = 2

log = logging.getLogger(__name__)


class RemoteCheckpoints:
    """The checkpoints of one job, as one attempt at it writes and reads them."""

    def __init__(self, database: Database, objects: ObjectStore, job_id: UUID, fence: int) -> None:
        self._objects = objects
        self._job_id = job_id
        self._fence = fence
        self._log = CheckpointLog(database, job_id)

    async def save(self, checkpoint: Checkpoint, scratch: Path) -> None:
        """Keep durably; then collect all but the newest two.

        Raises:
            LeaseLost: another attempt has taken over.
            Unavailable, DiskFull: it is not kept; older ones are.
        """
        step = checkpoint.state.step
        key = f"checkpoints/{self._job_id}/{self._fence}-{step:08d}-{uuid7().hex}"
        with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=_made(scratch)) as folder:
            path = Path(folder) / "state.safetensors"
            await asyncio.to_thread(write_tensors, path, checkpoint.tensors)
            digest = await asyncio.to_thread(_sha256, path)
            await self._objects.put_file(key, path)
            document = asdict(checkpoint.state)
            stored = StoredCheckpoint(key, digest, path.stat().st_size, document, self._fence)
        try:
            await self._log.add(step, stored)
        except FoundryError as error:
            # What a row may name all the same is left to the collector of orphans.
            if is_rolled_back(error):
                await self._objects.delete(key)
            raise
        await self.prune(_KEPT)

    async def load(self, scratch: Path) -> Checkpoint | None:
        """The newest one that is intact; a damaged or lost one is passed over."""
        for stored in await self._log.list_newest_first():
            with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=_made(scratch)) as folder:
                path = Path(folder) / "state.safetensors"
                try:
                    await self._objects.get_file(stored.object_key, path)
                    return await asyncio.to_thread(_read, path, stored)
                except (NotFound, ValueError, KeyError, TypeError, SafetensorError) as error:
                    log.warning(
                        "checkpoint %s is damaged, trying an older one: %s",
                        stored.object_key,
                        error,
                    )
        return None

    async def prune(self, kept: int) -> bool:
        """Remove all but the newest; what cannot be removed now is found again next time.

        A later attempt's are left alone: the job may have been resumed since this one ended.

        Returns whether the others are gone.
        """
        newest_first = await self._log.list_newest_first()
        stale = [each for each in newest_first if each.fence <= self._fence][kept:]
        try:
            for stored in stale:
                await self._objects.delete(stored.object_key)
        except Unavailable as error:
            log.warning("superseded checkpoints stay for now: %s", error.message)
            return False
        await self._log.remove(stale)
        return True


class RunCheckpoints:
    """A `CheckpointStore` for a training thread: each call is a visit to database and store.

    Args:
        scratch: for the file on its way.
        say: tells the job's owner.
    """

    def __init__(
        self,
        settings: Settings,
        job_id: UUID,
        fence: int,
        scratch: Path,
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._place = (job_id, fence)
        self._scratch = scratch
        self._say = say

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep durably, if the store can be reached: training is worth more than a checkpoint."""
        try:
            self._visit(lambda remote: remote.save(checkpoint, self._scratch))
        except Unavailable as error:
            self._say(f"step {checkpoint.state.step} has no checkpoint: {error.message}")

    def load(self) -> Checkpoint | None:
        found: Checkpoint | None = self._visit(lambda remote: remote.load(self._scratch))
        return found

    def clear(self) -> None:
        """Nothing yet: until the result is registered, the next attempt may need them."""

    def _visit(self, use: Callable[[RemoteCheckpoints], Any]) -> Any:
        async def visit() -> Any:
            async with open_database(self._settings) as database:
                return await use(
                    RemoteCheckpoints(database, open_objects(self._settings), *self._place)
                )

        return asyncio.run(visit())


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _read(path: Path, stored: StoredCheckpoint) -> Checkpoint:
    if _sha256(path) != stored.sha256:
        raise ValueError("digest mismatch")
    state: dict[str, Any] = dict(stored.document)
    return Checkpoint(RunState(**state), load_file(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
