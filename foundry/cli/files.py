"""Files that a command is given: their text, or the mapping that they hold."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from foundry.errors import Conflict, InvalidRequest, NotFound
from foundry.validation import describe_os_error, tell_place

_STANDARD_INPUT = "standard input"
# The server's default limit of a body (FOUNDRY_HTTP__MAX_BODY_BYTES).
_MAX_BYTES = 8 * 2**20


def read_text(file: Path) -> str:
    """A file's text; `-` is standard input.

    Raises:
        InvalidRequest: it is too large, no UTF-8 text or unreadable.
        NotFound: there is none.
    """
    if str(file) == "-":
        return read_standard_input()
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


def read_standard_input(most: int = _MAX_BYTES) -> str:
    """All of standard input.

    Args:
        most: characters that are taken.

    Raises:
        InvalidRequest: it is longer, no UTF-8 text or closed.
    """
    if sys.stdin is None:
        raise InvalidRequest("standard input is closed: give a file")
    try:
        text = sys.stdin.read(most + 1)
    except UnicodeDecodeError as error:
        raise InvalidRequest("standard input is no text: send UTF-8") from error
    if len(text) > most:
        raise InvalidRequest(f"standard input is longer than {most} characters")
    return text


def read_yaml(file: Path) -> object:
    """What a YAML (or JSON) file holds. Raises InvalidRequest: it is neither; names the line."""
    return _parse_yaml(file, read_text(file))


def read_mapping(file: Path) -> dict[str, Any]:
    """A YAML (or JSON) file that holds `name: value` lines."""
    return parse_mapping(file, read_text(file))


def parse_mapping(file: Path, text: str) -> dict[str, Any]:
    """The `name: value` lines of a file whose text was read."""
    document = _parse_yaml(file, text)
    if not isinstance(document, dict):
        raise InvalidRequest(
            f"{_name_source(file)} holds {describe_kind(document)}: write `name: value` lines"
        )
    return {str(name): value for name, value in document.items()}


def read_json(file: Path) -> object:
    """What a JSON file holds. Raises InvalidRequest: it is none; names the line."""
    try:
        return json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{_name_source(file)} is not JSON{tell_place(error)}") from error


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
    """Write a file.

    Raises InvalidRequest: it cannot be written.
    """
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise explain_unwritable(file, error) from error


def explain_unwritable(file: Path, error: OSError) -> InvalidRequest:
    """What is raised of a file that cannot be written."""
    return InvalidRequest(f"{file} cannot be written: {describe_os_error(error)}")


def describe_kind(value: object) -> str:
    """A document's kind in plain words."""
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "a list"
    return "a mapping" if isinstance(value, dict) else "a single value"


def _parse_yaml(file: Path, text: str) -> object:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InvalidRequest(f"{_name_source(file)} is not YAML{tell_place(error)}") from error


def _name_source(file: Path) -> str:
    return _STANDARD_INPUT if str(file) == "-" else str(file)
