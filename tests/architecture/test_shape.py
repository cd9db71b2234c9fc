"""Budgets and bans of the house style. The exception lists only shrink."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("foundry", "workflows", "serve_apps")
MODULE_LINES, FUNCTION_LINES = 400, 40
BANNED_NAMES = {"utils", "util", "misc", "common", "manager", "managers", "helpers", "helper"}
# Modules and functions beyond their budget, each with a reason in its docstring.
OVERSIZE_MODULES: set[str] = set()
OVERSIZE_FUNCTIONS: set[str] = set()


def modules(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "/migrations/versions/" not in path.as_posix():
                yield path


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_modules_are_short() -> None:
    long = {
        name_of(path)
        for path in modules(*SOURCES, "tests")
        if len(path.read_text().splitlines()) > MODULE_LINES
    }
    assert long <= OVERSIZE_MODULES
    assert long >= OVERSIZE_MODULES, "a module left the list: remove it there"


def test_functions_are_short() -> None:
    long = set()
    for path in modules(*SOURCES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
                body_lines(node) > FUNCTION_LINES
            ):
                long.add(f"{name_of(path)}:{node.name}")
    assert long <= OVERSIZE_FUNCTIONS
    assert long >= OVERSIZE_FUNCTIONS, "a function left the list: remove it there"


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from the first statement to the last, without the docstring."""
    body = node.body
    if ast.get_docstring(node) is not None:
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_imports_keep_their_contracts() -> None:
    """Here too, and not in `make check` alone: who runs only the tests shall hear of it."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout


def test_modules_are_named_for_their_noun() -> None:
    named = {name_of(path) for path in modules(*SOURCES, "tests") if path.stem in BANNED_NAMES}
    assert not named


def test_every_module_says_what_it_is_for() -> None:
    silent = {
        name_of(path)
        for path in modules(*SOURCES)
        if path.read_text().strip() and ast.get_docstring(ast.parse(path.read_text())) is None
    }
    assert not silent


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "XX" + "X:", "HA" + "CK"])
def test_nothing_is_left_for_later(word: str) -> None:
    pattern = re.compile(rf"\b{word}")
    found = {
        name_of(path) for path in modules(*SOURCES, "tests") if pattern.search(path.read_text())
    }
    assert not found


def test_broad_excepts_carry_their_reason() -> None:
    """Ruff bans them; a suppression is for a supervisor loop and says why."""
    bare = [
        f"{name_of(path)}:{number}"
        for path in modules(*SOURCES)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"noqa: BLE001\s*$", line)
    ]
    assert not bare
