"""`make lock`: compile locks/*.txt from pyproject.toml. Versions and hashes only, no places."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from foundry.install.builds import ROOT, Build, read_builds
from foundry.install.hardware_page import PAGE, render_page
from foundry.install.sources import pip_configuration, uv_environment

_HEADER = """\
# Compiled by `make lock` from pyproject.toml and foundry/install/builds.toml; do not edit.
"""
# The installer's own needs: itself, and what builds the editable project without a network.
_TOOLS = ("uv==0.13.8", "hatchling==1.33.0", "editables==0.6")
_EXTRAS = ("engine", "budsim", "bundled", "dev")


_PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)={2,3}(\S+)", re.MULTILINE)


def compile_light_lock(uv: str, pins: Mapping[str, str]) -> str:
    """The text of the lock without an engine; it serves every platform.

    Args:
        pins: versions by package; each is kept where it still fits.
    """
    return _compile(uv, ["--universal", "--no-emit-package", "torch"], _TOOLS, pins)


def compile_lock(uv: str, build: Build, pins: Mapping[str, str]) -> str:
    """The text of the lock of one accelerator's build.

    Args:
        pins: versions by package; each is kept where it still fits.
    """
    options = [f"--extra={extra}" for extra in _EXTRAS]
    if build.index is not None:
        # torch comes by its version alone: mirrors rebuild that wheel, so its hashes differ.
        options += ["--no-emit-package", "torch"]
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in (("overrides", build.overrides), ("constraints", build.constraints)):
            path = Path(folder) / name
            path.write_text("\n".join(lines))
            options += [f"--{name}", str(path)]
        exact = f"torch==={build.torch}"
        text = _compile(uv, options, (*_TOOLS, exact, *build.engine), pins)
    # A wheelhouse's `2.13.0+cpu` satisfies `==2.13.0`, too; uv writes `==` whatever was asked.
    return text.replace(f"\ntorch=={build.torch} ", f"\n{exact} ")


def _compile(
    uv: str, options: Sequence[str], requirements: Sequence[str], pins: Mapping[str, str]
) -> str:
    command = [uv, "pip", "compile", "--quiet", "--generate-hashes", "--no-header"]
    command += ["--no-annotate", "--python-version", "3.11", *options]
    with tempfile.TemporaryDirectory() as folder:
        # uv prefers the versions that its output file holds already.
        output = Path(folder) / "lock.txt"
        output.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        subprocess.run(
            [*command, "--output-file", str(output), "pyproject.toml", "-"],
            env={**os.environ, **_package_sources()},
            input="\n".join(requirements),
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        return _HEADER + output.read_text()


def _package_sources() -> dict[str, str]:
    """uv's settings from pip's, less further indexes: one that lists a part hides other hashes."""
    pip = pip_configuration([sys.executable, "-m", "pip"], os.environ)
    settings = uv_environment(pip, os.environ)
    return {name: value for name, value in settings.items() if name != "UV_INDEX"}


def read_pins(path: Path) -> dict[str, str]:
    """Versions by package of a lock; none, where there is no such file."""
    return dict(_PIN.findall(path.read_text())) if path.exists() else {}


def main() -> int:
    """Compile every lock. Pins are kept, and those of the first build hold for the others."""
    uv = str(Path(sys.executable).with_name("uv"))
    light = ROOT / "locks" / "light.txt"
    light.write_text(compile_light_lock(uv, read_pins(light)))
    shared: dict[str, str] = {}
    for build in read_builds().values():
        if build.lock is not None:
            build.lock.write_text(compile_lock(uv, build, read_pins(build.lock) | shared))
            shared = shared or read_pins(build.lock)
    PAGE.write_text(render_page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
