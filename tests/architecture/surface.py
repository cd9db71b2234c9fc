"""The public surface as text; `python -m tests.architecture.surface` rewrites the snapshots."""

from collections.abc import Iterator
from pathlib import Path

from foundry import errors
from foundry.cli.main import COMMANDS
from foundry.config import Settings, variable_names
from foundry.errors import FoundryError

_FOLDER = Path(__file__).parent / "snapshots"
NAMES = ("errors", "settings", "commands")


def error_tree(root: type[FoundryError] = FoundryError) -> Iterator[type[FoundryError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from error_tree(child)


def current(name: str) -> str:
    lines = {
        "errors": lambda: sorted(f"{kind.__name__} {kind.code}" for kind in error_tree()),
        "settings": lambda: sorted(_setting(variable) for variable in variable_names()),
        "commands": lambda: sorted(COMMANDS),
    }[name]()
    return "\n".join(lines) + "\n"


def recorded(name: str) -> str:
    return (_FOLDER / f"{name}.txt").read_text()


def rewrite() -> None:
    _FOLDER.mkdir(exist_ok=True)
    for name in NAMES:
        (_FOLDER / f"{name}.txt").write_text(current(name))


def _setting(variable: str) -> str:
    value: object = Settings.model_construct()
    for part in variable.removeprefix("FOUNDRY_").lower().split("__"):
        value = getattr(value, part)
    return variable if variable == "FOUNDRY_HOME" else f"{variable} {value}"


if __name__ == "__main__":
    rewrite()
