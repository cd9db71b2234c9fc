"""Which files of a directory become part of a version.

The one list of what engines read: everything else that a download leaves behind (licences, cards,
pickled duplicates, caches) is left out, and named.
"""

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from foundry.engines.model_files import (
    CONFIG,
    MORE_TEMPLATES,
    PROCESSOR_TEMPLATE,
    SPECIAL_TOKENS,
    TOKENIZER,
    WEIGHTS_SUFFIX,
)
from foundry.errors import InvalidArtifact
from foundry.validation import describe_os_error

_JSON, _TEXT, _BYTES = "application/json", "text/plain", "application/octet-stream"
# What a fleet's training tells of itself, beside its result.
FLEET_HISTORY = "diloco.json"
# Patterns of paths below the directory → media type. A `*` never reaches into a folder.
ENGINE_FILES = {
    f"*{WEIGHTS_SUFFIX}": "application/vnd.safetensors",
    f"*{WEIGHTS_SUFFIX}.index.json": _JSON,
    CONFIG: _JSON,
    "*_config.json": _JSON,
    TOKENIZER: _JSON,
    SPECIAL_TOKENS: _JSON,
    "added_tokens.json": _JSON,
    "vocab.json": _JSON,
    PROCESSOR_TEMPLATE: _JSON,
    "tekken.json": _JSON,
    "merges.txt": _TEXT,
    "vocab.txt": _TEXT,
    "*.jinja": _TEXT,
    f"{MORE_TEMPLATES}/*.jinja": _TEXT,
    "*.model": _BYTES,
    "*.tiktoken": _BYTES,
    FLEET_HISTORY: _JSON,
}
_HUB_PREFIX = "models--"
_PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_ARCHIVE_STARTS = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"\xfd7zXZ")
_MAX_PATH_BYTES = 512
_MAX_FILES = 4096


@dataclass(frozen=True, slots=True)
class Selection:
    """Files of a directory.

    Attributes:
        files: path in the version → where its bytes lie, no link.
        left_out: what is there besides; folders end with a slash.
        problems: path in the version → why that file cannot be imported.
    """

    files: dict[str, Path]
    left_out: tuple[str, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Found:
    files: dict[str, Path] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def media_type_of(path: str) -> str | None:
    """The media type of a path in a version; None: no engine reads such a file."""
    for pattern, media_type in ENGINE_FILES.items():
        if path.count("/") == pattern.count("/") and fnmatchcase(path, pattern):
            return media_type
    return None


def is_importable(path: str) -> bool:
    """Whether a file of this name may become part of a version."""
    hidden = path.rpartition("/")[2].startswith(".")
    return not hidden and media_type_of(path) is not None and _find_name_fault(path) is None


def select_files(directory: Path) -> Selection:
    """What of a model's directory, or of its folder in a hub cache, is part of a version.

    Links are followed as long as they stay in the directory; in a hub cache, in the model's folder.

    Raises:
        InvalidArtifact: there is no such directory, or which snapshot is meant is not clear.
    """
    folder = find_snapshot(directory)
    inside = _find_link_root(folder)
    found = _Found()
    for path, local in _list_entries(folder):
        _sort_file(path, local, inside, found)
    return Selection(found.files, tuple(found.left_out), found.problems)


def find_snapshot(directory: Path) -> Path:
    """The directory itself, or of a model's folder in a hub cache the snapshot that is current.

    Raises InvalidArtifact.
    """
    try:
        folder = directory.resolve(strict=True)
        snapshots = folder / "snapshots"
        if not folder.is_dir():
            raise InvalidArtifact(f"{directory} is not a directory")
        if not folder.name.startswith(_HUB_PREFIX) or not snapshots.is_dir():
            return folder
        main = folder / "refs" / "main"
        current = main.read_bytes()[:64].decode(errors="replace").strip() if main.is_file() else ""
        there = sorted(path.name for path in snapshots.iterdir() if path.is_dir())
    except (OSError, RuntimeError) as error:
        raise InvalidArtifact(f"{directory} {_describe_error(error)}") from error
    if current in there:
        return snapshots / current
    if len(there) != 1:
        raise InvalidArtifact(
            f"{directory} holds {len(there)} snapshots and no current one: name the one to import, "
            f"{snapshots}/REVISION"
        )
    return snapshots / there[0]


def _find_link_root(folder: Path) -> Path:
    """Where links may lead: a snapshot's files lie in `blobs` of the model's folder."""
    model = folder.parent.parent
    hub = folder.parent.name == "snapshots" and model.name.startswith(_HUB_PREFIX)
    return model if hub else folder


def _list_entries(folder: Path) -> Iterator[tuple[str, Path]]:
    """What lies in the directory, and in the one folder below it that engines read."""
    try:
        names = sorted(os.listdir(folder))
        templates = folder / MORE_TEMPLATES
        if MORE_TEMPLATES in names and templates.is_dir() and not templates.is_symlink():
            names.remove(MORE_TEMPLATES)
            names += [f"{MORE_TEMPLATES}/{name}" for name in sorted(os.listdir(templates))]
    except OSError as error:
        raise InvalidArtifact(f"{folder} {_describe_error(error)}") from error
    if not names:
        raise InvalidArtifact(f"{folder} holds no files")
    yield from ((name, folder / name) for name in names)


def _sort_file(path: str, local: Path, inside: Path, found: _Found) -> None:
    name = path.rpartition("/")[2]
    if name.startswith(".") or media_type_of(path) is None:
        shown = path if path.isprintable() else repr(path)
        found.left_out.append(f"{shown}/" if os.path.isdir(local) else shown)
    elif len(found.files) >= _MAX_FILES:
        found.problems[path] = f"there are more than {_MAX_FILES} files"
    elif problem := _find_name_fault(path) or _find_file_fault(path, local, inside):
        found.problems[path] = problem
    else:
        found.files[path] = local.resolve()


def _find_name_fault(path: str) -> str | None:
    clean = unicodedata.normalize("NFC", path) == path and "\\" not in path
    if not clean or len(path.encode(errors="replace")) > _MAX_PATH_BYTES or not path.isprintable():
        return f"{path[:200]!r} is not an acceptable file name"
    return None


def _find_file_fault(path: str, local: Path, inside: Path) -> str | None:
    try:
        target = local.resolve(strict=True)
        if not target.is_relative_to(inside):
            return f"{path} is a link that leads out of the directory: copy the file itself"
        # Before it is opened: a pipe would never answer.
        if not stat.S_ISREG(target.stat().st_mode):
            return f"{path} is no regular file"
        with target.open("rb") as file:
            start = file.read(8)
    except (OSError, RuntimeError) as error:
        return f"{path} {_describe_error(error)}"
    if not path.endswith(WEIGHTS_SUFFIX) and start.startswith((*_PICKLE_STARTS, *_ARCHIVE_STARTS)):
        return f"{path} holds a pickle or an archive, which is never read"
    return None


def _describe_error(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing, or a link to what is missing: download it again"
    if isinstance(error, PermissionError):
        return "cannot be read: let the server's account read it"
    if isinstance(error, NotADirectoryError):
        return "is not a directory"
    if isinstance(error, OSError):
        return f"cannot be read: {describe_os_error(error)}"
    return "is a link that leads to itself: copy the file itself"
