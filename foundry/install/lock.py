"""`make lock`: compile locks/*.txt from pyproject.toml. Versions and hashes only, no places."""

import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_HEADER = """\
# Compiled by `make lock` from pyproject.toml and foundry/install/builds.toml; do not edit.
"""
# The installer's own needs: itself, and what builds the editable project without a network.
_TOOLS = ("uv==0.13.8", "hatchling==1.33.0", "editables==0.6")


def compile_lock(uv: str, name: str, extras: Iterable[str], pins: Iterable[str]) -> str:
    """The text of one lock.

    Args:
        extras: of the project.
        pins: further requirements, as `name==version`.
    """
    command = [uv, "pip", "compile", "--quiet", "--generate-hashes", "--no-header"]
    # torch comes by its version alone: mirrors rebuild that wheel, so its hashes differ.
    command += ["--no-annotate", "--no-emit-package", "torch"]
    command += ["--python-version", "3.11", *(f"--extra={extra}" for extra in extras)]
    if name == "light":
        command.append("--universal")
    result = subprocess.run(
        [*command, "pyproject.toml", "-"],
        input="\n".join([*_TOOLS, *pins]),
        cwd=_ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return _HEADER + result.stdout


def main() -> int:
    uv = str(Path(sys.executable).with_name("uv"))
    builds = tomllib.loads((_ROOT / "foundry/install/builds.toml").read_text())
    locks = {
        "light": ((), ()),
        "cpu": (("engine", "budsim", "bundled", "dev"), _pins(builds["cpu"])),
    }
    for name, (extras, pins) in locks.items():
        (_ROOT / "locks" / f"{name}.txt").write_text(compile_lock(uv, name, extras, pins))
        print(f"locks/{name}.txt")
    return 0


def _pins(build: dict[str, list[str]]) -> tuple[str, ...]:
    return (f"torch=={build['torch']}", *build["engine"])


if __name__ == "__main__":
    sys.exit(main())
