"""Lines that are typed into a chat, with those of earlier ones under the arrow keys.

The file has one JSON string a line, for a pasted prompt may have several. A line is appended as
soon as it was typed: chats side by side share the file, and a killed one loses nothing.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import typer

from foundry.cli.output.console import print_note
from foundry.cli.output.terminal import printable

try:
    import readline as _readline
except ImportError:  # A Python that was built without it edits no lines.
    _editor: ModuleType | None = None
else:
    _editor = _readline

_LINES = 1000
_MAX_CHARS = 10_000
# Where the file is cut back to its last lines, before it grows without bound.
_MAX_FILE_BYTES = 4 * 2**20


class TypedLines:
    """The lines that somebody types.

    Args:
        file: keeps them; where it cannot be written they are forgotten at the end.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        if _editor is not None:
            _editor.set_auto_history(False)
            _editor.clear_history()
            for line in list(_read_lines(file))[-_LINES:]:
                _editor.add_history(line)

    def read_line(self, prompt: str) -> str | None:
        """The next line; empty: Ctrl-C, which drops what was typed; None: Ctrl-D."""
        try:
            line = input(prompt)
        except EOFError:
            typer.echo()
            return None
        except KeyboardInterrupt:
            typer.echo()
            if _editor is None or not _editor.get_line_buffer():
                # One that came just after a short answer was meant for it.
                print_note("Ctrl-D or /exit leaves")
            return ""
        if line.strip():
            self._remember_line(line)
        return line

    def _remember_line(self, line: str) -> None:
        if _editor is None or len(line) > _MAX_CHARS:
            return
        last = _editor.get_current_history_length()
        if last and _editor.get_history_item(last) == line:
            return
        _editor.add_history(line)
        with suppress(OSError):
            _append_line(self._file, line)


def _read_lines(file: Path) -> Iterator[str]:
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            _cut_back(file)
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for row in text.splitlines():
        with suppress(ValueError):
            line = json.loads(row)
            if isinstance(line, str):
                yield printable(line)


def _cut_back(file: Path) -> None:
    kept = file.read_bytes().splitlines(keepends=True)[-_LINES:]
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    with os.fdopen(_open_private(partial), "wb") as writer:
        writer.writelines(kept)
    partial.replace(file)


def _append_line(file: Path, line: str) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(_open_private(file), "ab") as writer:
        writer.write(json.dumps(line).encode() + b"\n")


def _open_private(file: Path) -> int:
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    # Prompts may be secret, also in a file that was there with a wider mode.
    with suppress(OSError):
        os.fchmod(handle, 0o600)
    return handle
