"""The builds that each accelerator gets: builds.toml as values, and what is known of each."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foundry.install.failures import InstallError

ROOT = Path(__file__).resolve().parents[2]
_TABLE = Path(__file__).with_name("builds.toml")

State = Literal["run", "locked", "planned", "refused"]


@dataclass(frozen=True, slots=True)
class Build:
    """What one accelerator gets; the fields are explained in builds.toml.

    Attributes:
        accelerator: `cpu` or a vendor of foundry/infra/hardware.py.
        lock: its file under locks/.
        refused: why nothing is installed for it; empty: something is.
    """

    accelerator: str
    title: str = ""
    torch: str | None = None
    engine: tuple[str, ...] = ()
    index: str | None = None
    lock: Path | None = None
    python: tuple[tuple[int, int], ...] = ()
    overrides: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    free_gb: int = 2
    driver: str = ""
    too_old: tuple[str, ...] = ()
    tried: str = ""
    evidence: tuple[str, ...] = ()
    missing: str = ""
    commands: tuple[str, ...] = ()
    refused: str = ""

    @property
    def states(self) -> tuple[State, ...]:
        """What is true of it: `locked`, `run`; `planned` where neither is, `refused` alone."""
        if self.refused:
            return ("refused",)
        states: list[State] = []
        if self.lock is not None:
            states.append("locked")
        if self.evidence:
            states.append("run")
        return tuple(states) or ("planned",)


def read_builds() -> dict[str, Build]:
    """Every build of builds.toml, by accelerator."""
    return {name: _parse(name, row) for name, row in tomllib.loads(_TABLE.read_text()).items()}


def choose_build(accelerator: str) -> Build:
    """The build for an accelerator.

    Raises:
        InstallError: there is none.
    """
    builds = read_builds()
    build = builds.get(accelerator)
    if build is None:
        raise InstallError(f"no build for {accelerator!r}: choose from {', '.join(builds)}")
    if build.refused:
        raise InstallError(build.refused)
    return build


def light_build() -> Build:
    """The SDK, the CLI and the control plane: no torch, no engine."""
    return Build("light", lock=ROOT / "locks" / "light.txt")


def _parse(accelerator: str, row: Mapping[str, Any]) -> Build:
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in row.items()
    }
    versions = (version.partition(".") for version in values.pop("python", ()))
    lock = values.pop("lock", None)
    return Build(
        accelerator,
        lock=None if lock is None else ROOT / "locks" / lock,
        python=tuple((int(major), int(minor)) for major, _, minor in versions),
        **values,
    )
