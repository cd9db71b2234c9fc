"""Modes of what lies below FOUNDRY_HOME: none of it is for other accounts of this machine.

What a stack creates is closed from the start; this is for what was there before, or came in by a
copy. Foundry closes what it owns and names the rest, which is the user's.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from foundry.enumeration import name_first
from foundry.infra.embedded.paths import home_mode

# Everything that Foundry writes into a home. Under root PostgreSQL's folder belongs to an account
# of its own, which sees to its modes itself.
_OWNED = frozenset(
    {
        "cache",
        "chat_history.jsonl",
        "credentials.json",
        "jobs",
        "logs",
        "objects",
        "postgres",
        "run",
        "secrets",
    }
)
_NAMED = 5
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_SEARCH = stat.S_IXGRP | stat.S_IXOTH


@dataclass(frozen=True, slots=True)
class OpenPath:
    """A file or folder that gives other accounts a right.

    Attributes:
        mode: permission bits.
        owned: Foundry made it, under this account.
        reachable: no folder above it, up to the home, keeps others out.
    """

    path: Path
    mode: int
    owned: bool
    reachable: bool


def find_open_paths(home: Path) -> list[OpenPath]:
    """Whatever below the home gives others a right; links are not followed."""
    with suppress(OSError):
        return sorted(
            _walk_folder(home, _lets_pass(home.stat().st_mode)), key=lambda found: found.path
        )
    return []


def find_owned_open_paths(home: Path) -> list[OpenPath]:
    """Open paths that Foundry owns and closes; the home itself first."""
    owned = [found for found in find_open_paths(home) if found.owned]
    with suppress(OSError):
        found = home.stat()
        mode = stat.S_IMODE(found.st_mode)
        if mode & _OTHERS & ~home_mode() and found.st_uid == os.geteuid():
            owned.insert(0, OpenPath(home, mode, owned=True, reachable=True))
    return owned


def describe_paths(home: Path, paths: Sequence[Path]) -> str:
    """How many, and the first of them, for a person."""
    names = [str(path.relative_to(home)) if path != home else str(home) for path in paths]
    shown = name_first(names, _NAMED)
    return f"{len(names)} files and folders: {shown}" if len(names) > 1 else shown


def close_owned_paths(home: Path) -> list[Path]:
    """Take every right of others from what Foundry owns. Returns what was open, parents first."""
    closed = []
    for found in find_owned_open_paths(home):
        if found.path == home:
            home.chmod(home_mode())
            closed.append(home)
        else:
            with suppress(OSError):
                found.path.chmod(found.mode & ~_OTHERS)
                closed.append(found.path)
    return closed


def _walk_folder(folder: Path, reachable: bool, owned: bool | None = None) -> Iterator[OpenPath]:
    """What is open below a folder.

    Args:
        owned: whether the folder is Foundry's; None: it is the home, whose entries decide.
    """
    # Files come and go while this runs, and some folders are not ours to read.
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            ours = entry.name in _OWNED if owned is None else owned
            with suppress(OSError):
                yield from _inspect_entry(entry, reachable, ours)


def _inspect_entry(entry: os.DirEntry[str], reachable: bool, owned: bool) -> Iterator[OpenPath]:
    if entry.is_symlink():
        return
    found = entry.stat(follow_symlinks=False)
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OTHERS:
        ours = owned and found.st_uid == os.geteuid()
        yield OpenPath(Path(entry.path), mode, ours, reachable)
    if entry.is_dir(follow_symlinks=False):
        yield from _walk_folder(Path(entry.path), reachable and _lets_pass(mode), owned)


def _lets_pass(mode: int) -> bool:
    return bool(mode & _SEARCH)
