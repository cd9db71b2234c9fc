"""Make `.venv`: the builds that fit this machine, pinned by the lock of its accelerator.

Runs on a bare Python 3.11 or newer; a second run finds its stamp and does nothing.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from foundry.infra.hardware import detect
from foundry.install.builds import ROOT, Build, choose_build, light_build
from foundry.install.failures import InstallError, explain, lacks_package, unreachable
from foundry.install.sources import (
    has_wheelhouse,
    offline,
    pip_configuration,
    uv_environment,
    venv_python,
)

_UV = "uv==0.13.8"
_STAMP = ".foundry-lock"
_ACCELERATOR = ".foundry-accelerator"
_INSTALLED = ".foundry-installed.txt"


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="bootstrap.py", description=__doc__)
    parser.add_argument("--light", action="store_true", help="SDK, CLI and control plane only")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--accelerator", help="skip detection: cpu, nvidia, amd, intel")
    options = parser.parse_args(arguments)
    try:
        install(options.venv.absolute(), light=options.light, accelerator=options.accelerator)
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def install(venv: Path, *, light: bool, accelerator: str | None = None) -> None:
    """Make or repair the environment at `venv`.

    Raises:
        InstallError: one sentence that says what to do.
    """
    build = light_build() if light else choose_build(accelerator or detect().accelerator)
    stamp = stamp_text(build)
    if read_stamp(venv) == stamp:
        return
    began = time.monotonic()
    require_space(venv.parent, build.free_gb)
    python = base_python(build)
    say(f"installing for {build.accelerator} into {venv} with {python}")
    Installation(venv, build, python).run()
    (venv / _STAMP).write_text(stamp)
    say(f"installed in {time.monotonic() - began:.0f} s")


class Installation:
    """One attempt; every step can be repeated."""

    def __init__(self, venv: Path, build: Build, python: str) -> None:
        self._venv, self._build, self._python = venv, build, python
        self._environment = dict(os.environ)
        self._no_index = False

    def run(self) -> None:
        # Builds share folders: what one drops, another has just installed under the same name.
        fresh = read_accelerator(self._venv) not in (None, self._build.accelerator)
        (self._venv / _STAMP).unlink(missing_ok=True)
        self._make_venv(fresh=fresh)
        (self._venv / _ACCELERATOR).write_text(f"{self._build.accelerator}\n")
        pip = pip_configuration([str(venv_python(self._venv)), "-m", "pip"], os.environ)
        self._environment |= uv_environment(pip, os.environ)
        self._environment |= {"VIRTUAL_ENV": str(self._venv)}
        self._no_index = offline(pip, os.environ)
        self._install_uv()
        if self._build.torch is not None and self._build.index is not None:
            self._install_torch(f"torch=={self._build.torch}")
        self._install_rest()
        say("installing foundry itself")
        self._uv("--no-deps", "--no-build-isolation", "--no-index", "--editable", str(ROOT))

    def _make_venv(self, *, fresh: bool) -> None:
        """Make the environment, unless one is there that works; a fresh one in any case."""
        ready = (
            subprocess.run(
                [venv_python(self._venv), "-m", "pip", "--version"],
                capture_output=True,
                check=False,
            )
            if venv_python(self._venv).exists()
            else None
        )
        if ready is not None and ready.returncode == 0 and not fresh:
            return
        result = subprocess.run(
            [self._python, "-m", "venv", "--clear", str(self._venv)],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            output = result.stdout + result.stderr
            if "ensurepip" in output:
                raise InstallError(
                    f"{self._python} cannot make virtual environments: install its venv package "
                    "(Debian: apt-get install python3-venv) and run the command again"
                )
            raise InstallError(explain(output, f"making {self._venv}"))

    def _install_uv(self) -> None:
        if self._uv_path().exists():
            return
        command = [str(venv_python(self._venv)), "-m", "pip", "install", "--quiet", _UV]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise InstallError(explain(result.stdout + result.stderr, f"installing {_UV}"))

    def _install_torch(self, torch: str) -> None:
        """From the user's own sources; PyTorch's index is asked only if they lack it."""
        say(f"installing {torch}")
        # A lock has what torch needs; without one that lies in torch's index, too.
        alone = () if self._build.lock is None else ("--no-deps",)
        try:
            self._uv(*alone, torch)
        except InstallError as error:
            if self._no_index or not lacks_package(error.output):
                raise
            self._install_torch_from_index(torch, str(self._build.index), alone)

    def _install_torch_from_index(self, torch: str, index: str, alone: Sequence[str]) -> None:
        say(f"your package sources lack {torch}: asking {index}")
        try:
            self._uv(*alone, "--index", index, torch)
        except InstallError as error:
            if unreachable(error.output):
                raise InstallError(
                    f"{torch} is in none of your package sources and {index} cannot be reached: "
                    "allow that address, or set PIP_FIND_LINKS to a folder that has the wheel"
                ) from error
            raise InstallError(
                f"{torch} does not exist for Python {sys.version_info[0]}.{sys.version_info[1]} on "
                f"this machine, neither in your package sources nor at {index}: "
                "use the Python version named in the README"
            ) from error

    def _install_rest(self) -> None:
        lock = self._build.lock
        if lock is None:
            say(f"no lock for {self._build.accelerator}: resolving")
            self._uv(
                "--overrides", self._overrides(), f"{ROOT}[engine,bundled,dev]", *self._build.engine
            )
            return
        say(f"installing locks/{lock.name}")
        self._uv("--no-deps", "--require-hashes", "--requirements", str(lock))
        self._remove_dropped(lock)

    def _remove_dropped(self, lock: Path) -> None:
        """Uninstall what the lock of the previous run had and this one has not."""
        installed = self._venv / _INSTALLED
        before = locked_names(installed.read_text()) if installed.exists() else set()
        if dropped := sorted(before - locked_names(lock.read_text())):
            command = [str(self._uv_path()), "pip", "uninstall", "--quiet", *dropped]
            subprocess.run(command, env=self._environment, check=False)
        shutil.copyfile(lock, installed)

    def _overrides(self) -> str:
        """A file with the project's overrides, which uv reads only when it resolves the project."""
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
        path = self._venv / ".foundry-overrides"
        path.write_text("\n".join((*settings["override-dependencies"], *self._build.overrides)))
        return str(path)

    def _uv(self, *arguments: str) -> None:
        try:
            self._uv_once(*arguments)
        except InstallError as error:
            # A wheelhouse is enough: uv stops at an unreachable index even if it would not need it.
            alone = has_wheelhouse(self._environment) and not self._no_index
            if not alone or not unreachable(error.output) or "--index" in arguments:
                raise
            try:
                self._uv_once("--no-index", *arguments)
            except InstallError:
                raise error from None

    def _uv_once(self, *arguments: str) -> None:
        flags = ["--no-index"] if self._no_index and "--no-index" not in arguments else []
        result = subprocess.run(
            [self._uv_path(), "pip", "install", "--quiet", *flags, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            output = result.stdout + result.stderr
            raise InstallError(explain(output, f"installing {arguments[-1]}"), output)

    def _uv_path(self) -> Path:
        return self._venv / "bin" / "uv"


def base_python(build: Build) -> str:
    """The interpreter for the environment: this one, or of a version that the lock is for."""
    if not build.python or sys.version_info[:2] in build.python:
        return sys.executable
    wanted = [".".join(map(str, version)) for version in build.python]
    if found := next(filter(None, (shutil.which(f"python{version}") for version in wanted)), None):
        return found
    raise InstallError(
        f"the builds for {build.accelerator} are for Python {' or '.join(wanted)} and this is "
        f"{sys.version_info[0]}.{sys.version_info[1]}: install python{wanted[0]} beside it "
        "and run the command again"
    )


def require_space(folder: Path, gigabytes: int) -> None:
    free = shutil.disk_usage(folder).free / 2**30
    if free < gigabytes:
        raise InstallError(
            f"{folder} has {free:.1f} GiB free and the installation needs {gigabytes}: "
            "free some space, or install elsewhere with --venv"
        )


def locked_names(lock: str) -> set[str]:
    return {
        line.partition("==")[0] for line in lock.splitlines() if re.match(r"[a-z0-9].*==", line)
    }


def stamp_text(build: Build) -> str:
    """Changes when anything that decides the environment changes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = (build.torch, build.engine, build.index, build.overrides, build.constraints)
    digest = hashlib.sha256(repr((project["build-system"], project["project"], asked)).encode())
    digest.update(build.lock.read_bytes() if build.lock is not None else b"")
    return f"{build.accelerator} {digest.hexdigest()}\n"


def read_accelerator(venv: Path) -> str | None:
    """Of which build the environment is, finished or not; None: it does not say."""
    try:
        return (venv / _ACCELERATOR).read_text().strip()
    except OSError:
        # Environments from before that file was written say it in their stamp.
        return read_stamp(venv).partition(" ")[0] or None


def read_stamp(venv: Path) -> str:
    try:
        return (venv / _STAMP).read_text()
    except OSError:
        return ""


def say(text: str) -> None:
    print(f"foundry: {text}", flush=True)
