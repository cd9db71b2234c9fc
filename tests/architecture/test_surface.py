"""The public surface changes only in a reviewed diff, with a line in the changelog."""

import pickle
import re
from pathlib import Path

import pytest

from foundry.cli.output.console import choose_exit_code
from foundry.config import variable_names
from foundry.errors import FoundryError
from foundry.infra.http.errors import status_of
from tests.architecture.surface import NAMES, current, error_tree, recorded

_ROOT = Path(__file__).parents[2]
LEAVES = [kind for kind in error_tree() if kind is not FoundryError]


@pytest.mark.parametrize("name", NAMES)
def test_the_surface_is_the_reviewed_one(name: str) -> None:
    assert current(name) == recorded(name), "python -m tests.architecture.surface, then review"


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: str(kind.__name__))
def test_an_error_crosses_processes(kind: type[FoundryError]) -> None:
    again = pickle.loads(pickle.dumps(kind("what happened and what to do", field="x")))
    assert type(again) is kind
    assert again.message == "what happened and what to do"
    assert again.details == {"field": "x"}


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: str(kind.__name__))
def test_an_error_has_a_status_and_an_exit_code(kind: type[FoundryError]) -> None:
    assert 400 <= status_of(kind("x")) != 500
    assert 1 <= choose_exit_code(kind("x")) <= 6


def test_error_codes_are_unique() -> None:
    codes = [kind.code for kind in error_tree()]
    assert len(codes) == len(set(codes))


def test_every_setting_is_read_somewhere() -> None:
    """A setting that nothing reads is a promise that nothing keeps."""
    text = "\n".join(
        path.read_text()
        for folder in ("foundry", "workflows", "serve_apps")
        for path in (_ROOT / folder).rglob("*.py")
        if path.name != "config.py" or path.parent.name != "foundry"
    )
    unread = [
        variable
        for variable in variable_names()
        # The marker is read from the environment of processes, by name.
        if variable not in text
        and not re.search(rf"\.{variable.lower().split('__')[-1].removeprefix('foundry_')}\b", text)
    ]
    assert not unread


def test_only_the_configuration_reads_the_environment() -> None:
    """Beside ruff's ban: no alias or `from os import environ` either."""
    found = [
        path.relative_to(_ROOT).as_posix()
        for folder in ("foundry", "workflows", "serve_apps")
        for path in (_ROOT / folder).rglob("*.py")
        if re.search(r"\bfrom os import .*\b(environ|getenv)\b", path.read_text())
    ]
    assert not found
