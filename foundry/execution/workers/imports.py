"""The import worker: brings a model's files into the registry."""

import asyncio
import shutil
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from foundry.config import Settings
from foundry.errors import InvalidRequest
from foundry.execution.jobs.domain import BUNDLED
from foundry.execution.workers.messages import Publication, Published
from foundry.execution.workers.publishing import publish
from foundry.infra.wiring import open_database, open_objects


class ImportWorker:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._objects = open_objects(settings)

    async def run(self, source: str, publication: Publication) -> Published:
        """Register the files at `source`, converted where that is needed.

        Raises:
            InvalidRequest: there is no such directory on this node.
            InvalidArtifact: the files are not a model that can be served.
        """
        self._settings.home.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix="import-", dir=self._settings.home))
        try:
            directory = await asyncio.to_thread(_fetch, source, staging)
            async with open_database(self._settings) as database:
                return await publish(database, self._objects, publication, directory)
        finally:
            await asyncio.to_thread(shutil.rmtree, staging, ignore_errors=True)


def _fetch(source: str, staging: Path) -> Path:
    """A directory in Hugging Face's layout."""
    if source == BUNDLED:
        from foundry.engines.training.gguf_import import bundled_gguf, convert_gguf

        converted = staging / "model"
        convert_gguf(bundled_gguf(), converted)
        return converted
    directory = Path(unquote(urlsplit(source).path))
    if not directory.is_dir():
        raise InvalidRequest(f"{directory} is no directory on the node that imports it")
    return directory
