"""What the processes of a stack have written."""

from pathlib import Path


def read_last_line(log: Path) -> str:
    """The last line that is not empty, for an error's message."""
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no output"
    return lines[-1].strip() if lines else "no output"
