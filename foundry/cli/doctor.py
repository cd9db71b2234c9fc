"""`foundry doctor`: evidence about this machine, and whether Foundry can run on it."""

import asyncio
import os
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from foundry.cli.console import Output, OutputOption, print_json, print_rows, stdout
from foundry.config import Settings, load_settings
from foundry.errors import FoundryError
from foundry.infra.embedded import ray, stack
from foundry.infra.embedded.file_modes import OpenPath, find_open_paths
from foundry.infra.embedded.health import PartStatus
from foundry.infra.embedded.listeners import (
    PROBES,
    Exposure,
    Verdict,
    find_listeners,
    judge_listeners,
)
from foundry.infra.embedded.ports import is_free
from foundry.infra.embedded.starting import list_chosen_ports
from foundry.infra.embedded.state import stack_id
from foundry.infra.hardware import DetectionReport, detect
from foundry.infra.wiring import open_database

app = typer.Typer(add_completion=False)

_MIN_PYTHON = (3, 11)
_MIN_FREE_GB, _MIN_MEMORY_GB = 5.0, 6.0
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold; `next_step` is empty if it does."""

    name: str
    ok: bool
    detail: str
    next_step: str = ""


@app.command()
def doctor(
    output: OutputOption = Output.TABLE,
    security: Annotated[
        bool,
        typer.Option("--security", help="list every listener and open file with its verdict"),
    ] = False,
) -> None:
    """Print what was found, what contradicts it, and what to do. Exits with 1 on a failed check."""
    settings = load_settings()
    if security:
        _report_security(settings, output)
        return
    report = detect()
    checks = list(_check_machine(settings, report))
    build = describe_build(report.accelerator)
    if output is Output.JSON:
        print_json(
            {
                **asdict(report),
                "evidence": [
                    {**asdict(item), "strength": item.strength.name.lower()}
                    for item in report.evidence
                ],
                "build": build,
                "checks": [asdict(check) for check in checks],
            }
        )
    else:
        _print_machine(report, build)
        _print_checks(checks)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _report_security(settings: Settings, output: Output) -> None:
    exposures = judge_listeners(find_listeners(stack_id(settings.home)), PROBES)
    opened = find_open_paths(settings.home)
    listeners = [_exposure_row(exposure) for exposure in exposures]
    files = [_open_path_row(found) for found in opened]
    if output is Output.JSON:
        print_json({"listeners": listeners, "files": files})
    else:
        nobody = "no process of this stack listens: start it with `foundry up`"
        print_rows(listeners, output, empty=nobody)
        print_rows(files, output, empty=f"no file in {settings.home} is open to other accounts")
    exposed = any(exposure.verdict is Verdict.EXPOSED for exposure in exposures)
    if exposed or any(found.reachable for found in opened):
        raise typer.Exit(1)


def _open_path_row(found: OpenPath) -> dict[str, object]:
    step = "`foundry up` closes it" if found.owned else f"yours: chmod go= {found.path}"
    return {
        "file": str(found.path),
        "mode": f"{found.mode:04o}",
        "verdict": "OPEN" if found.reachable else "behind a closed folder",
        "next_step": step,
    }


def _exposure_row(exposure: Exposure) -> dict[str, object]:
    found = exposure.listener
    return {
        "process": found.process,
        "pid": found.pid,
        "address": found.address,
        "port": found.port,
        "verdict": exposure.verdict.value,
        "reason": exposure.reason,
    }


def describe_build(accelerator: str) -> dict[str, object]:
    """What the installer takes for an accelerator, and what is installed."""
    table = Path(__file__).parents[1] / "install" / "builds.toml"
    row = tomllib.loads(table.read_text())[accelerator]
    wanted = {key: row[key] for key in ("torch", "engine", "refused") if key in row}
    return {
        **wanted,
        "installed_torch": _find_installed_version("torch"),
        "installed_ray": _find_installed_version("ray"),
    }


def _check_machine(settings: Settings, report: DetectionReport) -> Iterator[Check]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield _make_check(
        "python", sys.version_info >= _MIN_PYTHON, python, "install Python 3.11 or newer"
    )
    memory_gb = report.machine.memory_bytes / _GIB
    yield _make_check(
        "memory",
        memory_gb >= _MIN_MEMORY_GB,
        f"{memory_gb:.1f} GiB",
        f"a served model needs {_MIN_MEMORY_GB:.0f} GiB: use a larger machine",
    )
    yield from _check_home(settings.home)
    parts = stack.status(settings)
    external = settings.database.url is not None or settings.ray.address is not None
    running = external or any(part.pid is not None for part in parts)
    if running:
        yield from _check_running_stack(settings, parts)
    else:
        yield from _check_ports(settings)
        yield Check("stack", True, "not started yet: `foundry up`")


def _check_running_stack(settings: Settings, parts: list[PartStatus]) -> Iterator[Check]:
    yield asyncio.run(_check_database(settings))
    ray_part = next(part for part in parts if part.part == "ray")
    yield _make_check("ray", ray_part.healthy, ray_part.detail, "start it with `foundry up`")
    yield _check_token(settings)


def _check_home(home: Path) -> Iterator[Check]:
    existing = next(path for path in (home, *home.parents) if path.exists())
    yield _make_check(
        "home",
        os.access(existing, os.W_OK),
        str(home),
        "set FOUNDRY_HOME to a folder that you can write",
    )
    free_gb = shutil.disk_usage(existing).free / _GIB
    yield _make_check(
        "disk",
        free_gb >= _MIN_FREE_GB,
        f"{free_gb:.1f} GiB free",
        f"free {_MIN_FREE_GB:.0f} GiB, or set FOUNDRY_HOME to another disk",
    )


def _check_ports(settings: Settings) -> Iterator[Check]:
    for host, port, variable in list_chosen_ports(settings):
        free = is_free(host, port)
        detail = f"{port} is free" if free else f"{port} is taken"
        yield _make_check("port", free, detail, f"stop the program that has it, or set {variable}")


async def _check_database(settings: Settings) -> Check:
    where = "external" if settings.database.url is not None else "embedded"
    try:
        async with open_database(settings) as database:
            await database.ping()
    except FoundryError as error:
        step = (
            "start it with `foundry up`"
            if settings.database.url is None
            else "check FOUNDRY_DATABASE__URL and that the server runs"
        )
        return Check("postgres", False, f"{where}, {error.code}", step)
    return Check("postgres", True, f"{where}, answers")


def _check_token(settings: Settings) -> Check:
    """Without the token anybody who reaches a replica's port runs code there."""
    if settings.ray.address is not None:
        return Check("ray token", True, "the external cluster's own; see its RAY_AUTH_MODE")
    path = ray.token_file(settings.home)
    private = path.is_file() and path.stat().st_mode & 0o077 == 0
    detail = "on, readable by its owner only" if private else "missing or readable by others"
    return _make_check("ray token", private, detail, f"`foundry up` makes it; chmod 400 {path}")


def _make_check(name: str, ok: bool, detail: str, next_step: str) -> Check:
    return Check(name, ok, detail, "" if ok else next_step)


def _find_installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _print_machine(report: DetectionReport, build: dict[str, object]) -> None:
    machine, console = report.machine, stdout()
    features = " ".join(machine.cpu_features) or "no vector extensions known here"
    console.print(f"accelerator  {report.accelerator}", style="bold", markup=False)
    console.print(f"system       {machine.system}, {machine.architecture}", markup=False)
    console.print(
        f"processor    {machine.cpu_model}, {machine.cores} cores, {features}", markup=False
    )
    chosen = build.get("refused") or f"torch {build['torch']}, {build['engine']}"
    console.print(f"build        {chosen}", markup=False)
    console.print(
        f"installed    torch {build['installed_torch']}, ray {build['installed_ray']}", markup=False
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("evidence", "strength", "vendor"):
        table.add_column(column, overflow="fold")
    for item in report.evidence:
        table.add_row(item.detail, item.strength.name.lower(), item.vendor)
    if report.evidence:
        Console(highlight=False).print(table)
    else:
        console.print("evidence     no accelerator: PCI, device nodes, drivers and tools are empty")
    for text in report.contradictions:
        console.print(f"contradiction: {text}", style="yellow", markup=False)


def _print_checks(checks: list[Check]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for check in checks:
        mark = "[green]ok[/]" if check.ok else "[red]no[/]"
        table.add_row(mark, check.name, check.detail, check.next_step)
    Console(highlight=False).print(table)
