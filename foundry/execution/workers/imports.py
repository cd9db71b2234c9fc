"""The import worker: brings a model's files into the registry.

    bundled ── converted ─────┐
    directory ── as it lies ──┼──> what engines read of it ──> registered
    hf: ── fetched ───────────┘

What is fetched lies in a directory of the job: an attempt on the same node goes on where the one
before it was cut off.
"""

import asyncio
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from foundry.catalog.registry.artifacts import choose_files, find_index_faults, survey_files
from foundry.catalog.registry.domain import Kind
from foundry.catalog.registry.files import Selection, is_importable, select_files
from foundry.config import Settings
from foundry.engines.model_files import WEIGHTS_INDEX, WEIGHTS_SUFFIX
from foundry.enumeration import name_first
from foundry.errors import DiskFull, InvalidArtifact, InvalidRequest, Unavailable
from foundry.execution.jobs.domain import Phase
from foundry.execution.jobs.sources import BundledSource, DirectorySource, HubSource, parse_source
from foundry.execution.workers.directories import IMPORT_PREFIX
from foundry.execution.workers.messages import Progress, Publication, Published, Pulse
from foundry.execution.workers.publishing import publish
from foundry.execution.workers.stacks import describe_stacks
from foundry.infra.hub_mirror import MIRROR_SETTING, HubFile, HubListing, HubMirror
from foundry.infra.wiring import open_database, open_objects

_LOCK = ".lock"
_MOST_NAMED = 20
# A result is a row of the database, whatever the directory holds.
_MOST_KEPT = 100
# The index of a checkpoint with very many tensors has a few of them.
_MAX_DOCUMENT_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made.

    Attributes:
        published: None: it was stopped before.
        left_out: the first files that no engine reads.
    """

    published: Published | None
    left_out: tuple[str, ...] = ()

    @property
    def stopped(self) -> bool:
        return self.published is None


class ImportWorker:
    """Answers `progress`, `pulse` and `stop` while it works."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._objects = open_objects(settings)
        self._reports: list[Progress] = []
        self._phase = Phase.LOAD
        self._arrived = 0
        self._stopped = False
        self._work: asyncio.Future[Imported] | None = None

    async def run(self, source: str, publication: Publication) -> Imported:
        """Register the files at `source`, converted or fetched where that is needed.

        Raises:
            InvalidRequest: there is no such directory on this node, or no mirror is set.
            InvalidArtifact: the files are not a model that can be served.
            Unavailable: the mirror does not answer; what has arrived is kept for the next attempt.
            DiskFull: there is no room for it.
        """
        self._work = asyncio.ensure_future(self._import(source, publication))
        try:
            return await self._work
        except asyncio.CancelledError:
            if self._stopped:
                return Imported(None)
            raise

    async def _import(self, source: str, publication: Publication) -> Imported:
        staging = self._settings.home / f"{IMPORT_PREFIX}{publication.job_id}"
        with _hold(staging):
            keep = False
            try:
                selection = await self._gather(source, publication.spec.kind, staging)
                return await self._publish(selection, publication)
            except Unavailable:
                keep = True
                raise
            finally:
                if not keep:
                    await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)

    async def _publish(self, selection: Selection, publication: Publication) -> Imported:
        found = await asyncio.to_thread(survey_files, selection, publication.spec.kind)
        if found.left_out:
            left_out = name_first(found.left_out, _MOST_NAMED)
            self._say(f"left out, because no engine reads it: {left_out}")
        self._say("reading the files", Phase.PUBLISH)
        async with open_database(self._settings) as database:
            published = await publish(database, self._objects, publication, selection)
        return Imported(published, found.left_out[:_MOST_KEPT])

    async def _gather(self, source: str, kind: Kind, staging: Path) -> Selection:
        """Files in Hugging Face's layout."""
        parsed = parse_source(source)
        if isinstance(parsed, BundledSource):
            self._say("converting the bundled model", Phase.PUBLISH)
            return await asyncio.to_thread(_convert_bundled, staging / "model")
        if isinstance(parsed, DirectorySource):
            return await asyncio.to_thread(_select_directory, parsed.directory)
        return await self._fetch(parsed, kind, staging)

    async def _fetch(self, source: HubSource, kind: Kind, staging: Path) -> Selection:
        mirror = HubMirror.from_settings(self._settings.imports)
        if mirror is None:
            raise InvalidRequest(f"this node has no mirror of the hub: set {MIRROR_SETTING}")
        self._say(f"asking the mirror for {source.repository}")
        listing = await mirror.list_files(source.repository, source.revision)
        names = {path for path in listing.files if is_importable(path)}
        # A branch may move between two attempts: files of two commits never mix.
        folder = staging / listing.commit
        documents = {name for name in choose_files(names, None, kind) if not _is_weights(name)}
        await self._fetch_files(mirror, listing, documents, folder)
        index = await asyncio.to_thread(_read_index, folder, kind)
        kept = choose_files(names, index, kind)
        if index is not None and (faults := list(find_index_faults(index, {}, kept))):
            raise InvalidArtifact(f"{source.text} cannot be imported: {'; '.join(faults)}")
        await self._fetch_files(mirror, listing, kept, folder)
        selection = await asyncio.to_thread(select_files, folder)
        return replace(selection, left_out=tuple(sorted(listing.files.keys() - kept)))

    async def _fetch_files(
        self, mirror: HubMirror, listing: HubListing, names: set[str], folder: Path
    ) -> None:
        files = [listing.files[name] for name in sorted(names)]
        await asyncio.to_thread(_check_room, files, folder)
        for number, file in enumerate(files, 1):
            self._say(f"fetching {file.path} ({number} of {len(files)}, {file.size:,} bytes)")
            target = folder / file.path
            await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
            await mirror.fetch(listing, file, target, self._count)

    def _count(self, arrived: int) -> None:
        self._arrived += arrived

    def _say(self, words: str, phase: Phase = Phase.LOAD) -> None:
        self._phase = phase
        self._reports.append(Progress(words))

    async def progress(self, after: int) -> list[Progress]:
        """Reports number `after` and later."""
        return self._reports[after:]

    async def pulse(self) -> Pulse:
        """Where the work is, and whether it moves."""
        return Pulse(self._phase, (len(self._reports), self._arrived))

    async def dump_stacks(self) -> str:
        return describe_stacks()

    async def stop(self) -> None:
        """End the work; a thread that reads a large file goes on until the actor ends."""
        self._stopped = True
        if self._work is not None:
            self._work.cancel()


def _convert_bundled(target: Path) -> Selection:
    from foundry.engines.training.gguf_import import bundled_gguf, convert_gguf

    # What an attempt that was killed has left is no whole model.
    shutil.rmtree(target, ignore_errors=True)
    convert_gguf(bundled_gguf(), target)
    return select_files(target)


def _select_directory(directory: Path) -> Selection:
    if not os.path.lexists(directory):
        raise InvalidRequest(
            f"there is no directory {directory} on the node that imports it: put the model on a "
            "disk that every node of the cluster mounts there"
        )
    return select_files(directory)


def _read_index(folder: Path, kind: Kind) -> object:
    """Of shards that are not fetched yet; None: there is none."""
    return survey_files(select_files(folder), kind).documents.get(WEIGHTS_INDEX)


def _is_weights(name: str) -> bool:
    return name.endswith(WEIGHTS_SUFFIX)


def _check_room(files: list[HubFile], folder: Path) -> None:
    """Refuse before the first byte what cannot be held. Raises DiskFull, InvalidArtifact."""
    for file in files:
        if not _is_weights(file.path) and file.size > _MAX_DOCUMENT_BYTES:
            raise InvalidArtifact(f"{file.path} is larger than {_MAX_DOCUMENT_BYTES >> 20} MiB")
    folder.mkdir(parents=True, exist_ok=True)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    missing = max(0, sum(file.size for file in files) - there)
    if missing > (free := shutil.disk_usage(folder).free):
        raise DiskFull(
            f"the model needs {missing:,} more bytes under {folder.parent.parent}, which has "
            f"{free:,}: free some space, then resume"
        )


@contextmanager
def _hold(staging: Path) -> Iterator[None]:
    """Keep another attempt of the same job out of its directory.

    Raises Unavailable: one that was given up is still at work there.
    """
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(staging / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Unavailable("an earlier attempt of this import is still at work") from error
        yield
    finally:
        os.close(handle)
