"""Files of a repository on a mirror of the Hugging Face hub, over its plain HTTP interface.

list_files ──> names, sizes, digests of one commit
fetch ───────> a file: goes on where the last try ended, never larger than listed, verified
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from foundry.config import ImportSettings
from foundry.errors import InvalidArtifact, InvalidRequest, NotFound, SetupError, Unavailable
from foundry.infra.directory_store import storage_error

MIRROR_SETTING = "FOUNDRY_IMPORTS__HUGGING_FACE_MIRROR"
_COMMIT = re.compile(r"[0-9A-Za-z]{1,64}")
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_MAX_LISTING_BYTES = 16 * 2**20
_MAX_DOCUMENT_BYTES = 2**20
_CHUNK_BYTES = 1 << 20
# A connection that breaks costs what was on its way, not what has arrived.
_TRIES, _PAUSE_S = 5, 2.0


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a commit.

    Attributes: sha256: of large files; None: the mirror does not say.
    """

    path: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class HubListing:
    """The files of one commit, by path."""

    repository: str
    commit: str
    files: dict[str, HubFile]


class HubMirror:
    """One mirror, for the time of a few requests.

    Args:
        transport: for tests.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        pause_s: float = _PAUSE_S,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise SetupError(f"{MIRROR_SETTING} must look like https://mirror.example.org")
        self._url = url.rstrip("/")
        self._token = token
        self._transport = transport
        self._pause_s = pause_s

    @classmethod
    def from_settings(cls, settings: ImportSettings) -> Self | None:
        """None: no mirror is set."""
        if settings.hugging_face_mirror is None:
            return None
        token = settings.hugging_face_token
        return cls(settings.hugging_face_mirror, token.get_secret_value() if token else None)

    async def list_files(self, repository: str, revision: str) -> HubListing:
        """Everything that a commit holds.

        Args:
            revision: a branch, a tag or a commit.

        Raises:
            NotFound: the mirror has no such repository or revision, or does not show it.
            Unavailable: it does not answer.
        """
        path = f"/api/models/{repository}/revision/{quote(revision, safe='')}"
        document = await self._get_json(path, {"blobs": "true"}, _MAX_LISTING_BYTES)
        try:
            files = [_read_entry(entry) for entry in document["siblings"]]
            commit = str(document["sha"])
            # It becomes the name of a directory.
            if not _COMMIT.fullmatch(commit):
                raise ValueError(commit)
            return HubListing(repository, commit, {each.path: each for each in files})
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(f"the mirror {self._url} answered what no hub does") from error

    async def read_document(self, listing: HubListing, path: str) -> object:
        """A small JSON file. Raises InvalidArtifact, Unavailable."""
        return await self._get_json(_file_path(listing, path), {}, _MAX_DOCUMENT_BYTES)

    async def fetch(
        self, listing: HubListing, file: HubFile, target: Path, on_bytes: Callable[[int], None]
    ) -> None:
        """Fetch a file; what is at `target` already is not fetched again.

        Args:
            on_bytes: told how many have arrived, again and again.

        Raises:
            InvalidArtifact: what came is not what was listed; nothing of it is kept.
            Unavailable: the connection broke again and again; what has arrived stays.
            DiskFull.
        """
        for attempt in range(_TRIES):
            try:
                await self._fetch_rest(_file_path(listing, file.path), file, target, on_bytes)
                break
            except httpx.TransportError as error:
                if attempt == _TRIES - 1:
                    raise self._broken() from error
                await asyncio.sleep(self._pause_s)
        await asyncio.to_thread(_verify, file, target)

    async def _fetch_rest(
        self, path: str, file: HubFile, target: Path, on_bytes: Callable[[int], None]
    ) -> None:
        have = await asyncio.to_thread(_size_of, target)
        if have >= file.size:
            return
        headers = {"range": f"bytes={have}-"} if have else {}
        async with self._client() as client, client.stream("GET", path, headers=headers) as answer:
            self._check_status(answer, path)
            whole = answer.status_code != httpx.codes.PARTIAL_CONTENT
            arrived = 0 if whole else have
            try:
                with target.open("wb" if whole else "ab") as writer:
                    async for chunk in answer.aiter_bytes(_CHUNK_BYTES):
                        arrived += len(chunk)
                        if arrived > file.size:
                            break
                        writer.write(chunk)
                        on_bytes(len(chunk))
            except OSError as error:
                raise storage_error(error, target.parent) from error
        if arrived > file.size:
            await asyncio.to_thread(target.unlink)
            raise InvalidArtifact(f"{file.path} is larger than the mirror's listing says")
        if arrived < file.size:
            raise httpx.ReadError("the answer ended early")

    async def _get_json(self, path: str, query: dict[str, str], limit: int) -> Any:
        try:
            async with self._client() as client, client.stream("GET", path, params=query) as answer:
                self._check_status(answer, path)
                content = b""
                async for chunk in answer.aiter_bytes():
                    content += chunk
                    if len(content) > limit:
                        raise InvalidArtifact(f"{path} of the mirror is larger than {limit} bytes")
        except httpx.TransportError as error:
            raise self._broken() from error
        try:
            return httpx.Response(200, content=content).json()
        except (ValueError, RecursionError) as error:
            raise InvalidArtifact(f"{path.rpartition('/')[2]} is not valid JSON") from error

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        # httpx drops the token where a redirect leads to another host, like the hub's storage.
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        async with httpx.AsyncClient(
            base_url=self._url,
            headers=headers,
            timeout=_TIMEOUT,
            follow_redirects=True,
            transport=self._transport,
        ) as client:
            yield client

    def _check_status(self, answer: httpx.Response, path: str) -> None:
        status = answer.status_code
        if status in (401, 403, 404):
            raise NotFound(
                f"the mirror {self._url} does not show {path.removeprefix('/api/models/')}: check "
                "its name and revision, and whether it needs FOUNDRY_IMPORTS__HUGGING_FACE_TOKEN"
            )
        if status == 429 or status >= 500:
            raise httpx.ReadError(f"status {status}")
        if not answer.is_success:
            raise InvalidRequest(f"the mirror {self._url} answered {status}")

    def _broken(self) -> Unavailable:
        return Unavailable(f"the mirror {self._url} does not answer, or its answers break off")


def _file_path(listing: HubListing, path: str) -> str:
    return f"/{listing.repository}/resolve/{quote(listing.commit, safe='')}/{quote(path)}"


def _read_entry(entry: dict[str, Any]) -> HubFile:
    large = entry.get("lfs") or {}
    size = large["size"] if "size" in large else entry["size"]
    return HubFile(str(entry["rfilename"]), int(size), large.get("sha256"))


def _size_of(target: Path) -> int:
    return target.stat().st_size if target.exists() else 0


def _verify(file: HubFile, target: Path) -> None:
    digest = hashlib.sha256()
    with target.open("rb") as reader:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
    size = target.stat().st_size
    if size != file.size or (file.sha256 is not None and digest.hexdigest() != file.sha256):
        target.unlink()
        raise InvalidArtifact(f"{file.path} is not what the mirror listed: import it again")
