"""Where an import reads from: the model that comes along, a directory, or a mirror of the hub."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from foundry.errors import InvalidRequest
from foundry.execution.jobs.domain import BUNDLED

# What comes before the first colon of a source; a directory may also be written without one.
SCHEMES = ("bundled", "file", "hf")
_FILE = "file://"
_HUB = re.compile(
    r"hf:(?P<repository>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(?:@(?P<revision>[A-Za-z0-9][\w./-]{0,127}))?",
    re.ASCII,
)
_DEFAULT_REVISION = "main"


@dataclass(frozen=True, slots=True)
class BundledSource:
    """The model that is installed with Foundry."""

    @property
    def text(self) -> str:
        return BUNDLED


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """A directory on the server."""

    directory: Path

    @property
    def text(self) -> str:
        return self.directory.as_uri()


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository of a Hugging Face mirror.

    Attributes:
        revision: a branch, a tag or a commit.
    """

    repository: str
    revision: str = _DEFAULT_REVISION

    @property
    def text(self) -> str:
        return f"hf:{self.repository}@{self.revision}"


Source = BundledSource | DirectorySource | HubSource


def parse_source(text: str) -> Source:
    """Read a source such as `file:///models/llama`, `/models/llama` or `hf:ORG/NAME@main`.

    Raises InvalidRequest: it is none.
    """
    if text == BUNDLED:
        return BundledSource()
    if match := _HUB.fullmatch(text):
        return HubSource(match["repository"], match["revision"] or _DEFAULT_REVISION)
    path = unquote(text.removeprefix(_FILE)) if text.startswith(_FILE) else text
    if path.startswith("/") and "\0" not in path and ".." not in path.split("/"):
        return DirectorySource(Path(path))
    raise InvalidRequest(
        f"{text[:200]!r} cannot be imported: use {BUNDLED}, an absolute directory on the server, "
        "or hf:ORG/NAME[@REVISION]",
        param="source",
    )
