"""Files that a command is given: their text, or the mapping that they hold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from foundry.errors import Conflict, InvalidRequest, NotFound

_MAX_BYTES = 8 * 2**20


def read_text(file: Path) -> str:
    """A file's text; `-` is standard input.

    Raises:
        InvalidRequest: it is too large, no UTF-8 text or unreadable.
        NotFound: there is none.
    """
    if str(file) == "-":
        return sys.stdin.read(_MAX_BYTES)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InvalidRequest(f"{file} is larger than {_MAX_BYTES >> 20} MiB")
        return file.read_text("utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {file}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{file} is no text: save it as UTF-8") from error
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {describe_os_error(error)}") from error


def read_yaml(file: Path) -> object:
    """What a YAML (or JSON) file holds. Raises InvalidRequest: it is neither; names the line."""
    try:
        return yaml.safe_load(read_text(file))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise InvalidRequest(f"{file}{where}: not YAML: {error.problem}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidRequest(f"{file} is not YAML") from error


def read_mapping(file: Path) -> dict[str, Any]:
    """A YAML (or JSON) file that holds `name: value` lines."""
    document = read_yaml(file)
    if not isinstance(document, dict):
        raise InvalidRequest(f"{file} holds {describe_kind(document)}: write `name: value` lines")
    return {str(name): value for name, value in document.items()}


def refuse_unwritable(file: Path, *, keep: bool = False) -> None:
    """Before the work whose result goes there.

    Args:
        keep: what is there is not replaced.

    Raises:
        Conflict: the file exists.
        InvalidRequest: it is a directory, or its directory is missing.
    """
    if file.is_dir():
        raise InvalidRequest(f"{file} is a directory: name a file in it")
    if not file.parent.is_dir():
        raise InvalidRequest(f"{file} cannot be written: there is no directory {file.parent}")
    if keep and file.exists():
        raise Conflict(f"{file} exists: give another name, or remove it first")


def write_text(file: Path, text: str) -> None:
    """Raises InvalidRequest: it cannot be written."""
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be written: {describe_os_error(error)}") from error


def describe_os_error(error: OSError) -> str:
    """Its reason, like `Permission denied`."""
    return error.strerror or "the system gave no reason"


def describe_kind(value: object) -> str:
    """A document's kind in plain words."""
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "a list"
    return "a mapping" if isinstance(value, dict) else "a single value"
