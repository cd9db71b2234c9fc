"""Logs hold our own steps; libraries that tell each request are quiet."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_TELL = """
import logging
from foundry.infra.logs import configure_logging
configure_logging(timed={timed})
for name in ("foundry.x", "httpx", "botocore.credentials"):
    logging.getLogger(name).info("%s tells", name)
    logging.getLogger(name).warning("%s warns", name)
"""


@pytest.mark.parametrize("timed", [False, True])
def test_of_libraries_only_warnings_are_told(timed: bool) -> None:
    # In a process of its own: pytest has configured this one's logging.
    command = [sys.executable, "-c", _TELL.format(timed=timed)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    lines = ended.stderr.splitlines()
    said = [line.replace(":", " ").split()[-2:] for line in lines]
    assert said == [
        ["foundry.x", "tells"],
        ["foundry.x", "warns"],
        ["httpx", "warns"],
        ["botocore.credentials", "warns"],
    ]
    assert all(line[:4].isdigit() == timed for line in lines)


def test_entry_points_share_one_set_up() -> None:
    sources = [
        path
        for folder in ("foundry", "serve_apps", "workflows")
        for path in (ROOT / folder).rglob("*.py")
    ]
    found = [path.name for path in sources if "basicConfig(" in path.read_text()]
    assert found == ["logs.py"]
