"""`foundry doctor`: evidence about this machine, and whether Foundry can run on it."""

import asyncio
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from foundry.cli.builds import (
    describe_build,
    describe_packages,
    describe_state,
    list_builds,
)
from foundry.cli.help import examples
from foundry.cli.output.console import Output, OutputOption, print_json, print_rows, stdout
from foundry.cli.output.exit_codes import ExitCode
from foundry.config import Settings, load_settings
from foundry.errors import FoundryError, PermissionDenied
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
from foundry.infra.embedded.ports import describe_holder, find_free_ports, is_free
from foundry.infra.embedded.starting import list_chosen_ports
from foundry.infra.embedded.state import stack_id
from foundry.infra.hardware import DetectionReport, detect
from foundry.infra.wiring import open_database
from foundry.install.builds import read_builds

app = typer.Typer(add_completion=False)

_MIN_PYTHON = (3, 11)
_MIN_FREE_GB, _MIN_MEMORY_GB = 5.0, 6.0
_GIB = 2**30
# A server that takes longer to say that it lives is no help.
_SERVER_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold; `next_step` is empty if it does."""

    name: str
    ok: bool
    detail: str
    next_step: str = ""


@app.command(epilog=examples("foundry doctor", "foundry doctor --security --output json"))
def doctor(
    output: OutputOption = Output.TABLE,
    security: Annotated[
        bool,
        typer.Option(
            "--security", help="list who listens, and what other accounts may open; json: each file"
        ),
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
                "builds": list_builds(),
                "checks": [asdict(check) for check in checks],
            }
        )
    else:
        _print_machine(report, build)
        _print_checks(checks)
    if not all(check.ok for check in checks):
        raise typer.Exit(ExitCode.FAILED)


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
        print_rows(
            [_topmost_row(*group) for group in _group_below(opened)],
            output,
            empty=f"no file in {settings.home} is open to other accounts",
        )
        for step in _list_steps(opened):
            stdout().print(f"to close: {step}", markup=False)
    exposed = any(exposure.verdict is Verdict.EXPOSED for exposure in exposures)
    if exposed or any(found.reachable for found in opened):
        raise typer.Exit(ExitCode.FAILED)


def _group_below(opened: Sequence[OpenPath]) -> Iterator[tuple[OpenPath, list[OpenPath]]]:
    """Each open path that lies below no other, and those below it; `opened` is sorted."""
    top, below = None, list[OpenPath]()
    for found in opened:
        if top is not None and found.path.is_relative_to(top.path):
            below.append(found)
            continue
        if top is not None:
            yield top, below
        top, below = found, []
    if top is not None:
        yield top, below


def _topmost_row(top: OpenPath, below: Sequence[OpenPath]) -> dict[str, object]:
    row = _open_path_row(top)
    del row["next_step"]
    if any(found.reachable for found in below):
        row["verdict"] = "OPEN"
    return row | {"open_below": len(below)}


def _list_steps(opened: Sequence[OpenPath]) -> Iterator[str]:
    if any(found.owned for found in opened):
        yield "`foundry up`, what it has made"
    for top, _ in _group_below([found for found in opened if not found.owned]):
        yield f"chmod -R go= {shlex.quote(str(top.path))}"


def _open_path_row(found: OpenPath) -> dict[str, object]:
    path = shlex.quote(str(found.path))
    step = "`foundry up` closes it" if found.owned else f"yours: chmod go= {path}"
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
    yield from _check_accelerator(report)
    yield from _check_home(settings.home)
    parts = stack.status(settings)
    external = settings.database.url is not None or settings.ray.address is not None
    running = external or any(part.pid is not None for part in parts)
    if running:
        yield from _check_running_stack(settings, parts)
    else:
        yield from _check_ports(settings)
        yield Check("stack", True, "not started yet: `foundry up`")
    if running or settings.client.url or settings.client.api_key:
        yield _check_server(settings)


def _check_accelerator(report: DetectionReport) -> Iterator[Check]:
    """Whether torch's build runs with this driver and on these devices."""
    build = read_builds()[report.accelerator]
    driver = report.drivers.get(report.accelerator, "")
    if build.driver and (version := re.search(r"\d+", driver)):
        yield _make_check(
            "driver",
            int(version.group()) >= int(build.driver),
            driver,
            f"torch {build.torch} needs driver {build.driver} or newer: install that",
        )
    old = [found.slot for found in report.devices if found.device.startswith(build.too_old or "-")]
    if old:
        yield Check(
            "device",
            False,
            f"torch {build.torch} has no kernels for {', '.join(old)}",
            "install a torch for CUDA 12.6, which is not locked, or take a newer device",
        )


def _check_running_stack(settings: Settings, parts: list[PartStatus]) -> Iterator[Check]:
    yield asyncio.run(_check_database(settings))
    ray_part = next(part for part in parts if part.part == "ray")
    yield _make_check("ray", ray_part.healthy, ray_part.detail, "start it with `foundry up`")
    yield _check_token(settings)


def _check_server(settings: Settings) -> Check:
    """Whether commands get through to the server that they would ask."""
    from foundry.sdk import Foundry

    try:
        with Foundry(settings=settings, timeout_s=_SERVER_TIMEOUT_S) as client:
            url = client.url
            try:
                client.health()
                role = client.whoami().role
            except PermissionDenied:
                return Check("server", True, f"{url} answers; the key is limited")
            except FoundryError as error:
                return Check("server", False, f"{url}: {error.code}", error.message)
    except FoundryError as error:
        return Check("server", False, error.code, error.message)
    return Check("server", True, f"{url} answers; the key has the role {role}")


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
        detail, step = f"{port} is free", ""
        if not free:
            detail = f"{port} is taken{describe_holder(port)}"
            other = next(find_free_ports(f"{host}:{port}"))
            step = f"stop that program, or choose another port with {variable}={other}"
        yield Check("port", free, detail, step)


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
    """Check Ray's token: without it anybody who reaches a replica's port runs code there."""
    if settings.ray.address is not None:
        return Check("ray token", True, "the external cluster's own; see its RAY_AUTH_MODE")
    path = ray.token_file(settings.home)
    if not path.is_file():
        return Check("ray token", False, "missing", "`foundry up` makes it")
    private = path.stat().st_mode & 0o077 == 0
    detail = "on, readable by its owner only" if private else "readable by others"
    return _make_check("ray token", private, detail, f"chmod 400 {shlex.quote(str(path))}")


def _make_check(name: str, ok: bool, detail: str, next_step: str) -> Check:
    return Check(name, ok, detail, "" if ok else next_step)


def _print_machine(report: DetectionReport, build: dict[str, object]) -> None:
    machine, console = report.machine, stdout()
    features = " ".join(machine.cpu_features) or "no vector extensions known here"
    console.print(f"accelerator  {report.accelerator}", style="bold", markup=False)
    console.print(f"system       {machine.system}, {machine.architecture}", markup=False)
    console.print(
        f"processor    {machine.cpu_model}, {machine.cores} cores, {features}", markup=False
    )
    console.print(f"build        {describe_packages(build)}", markup=False)
    installed = ", ".join(
        f"{name} {build[f'installed_{name}'] or 'not installed'}" for name in ("torch", "ray")
    )
    console.print(f"installed    {installed}", markup=False)
    for line in describe_state(report.accelerator):
        console.print(line, markup=False)
    rows = [
        {"evidence": item.detail, "strength": item.strength.name.lower(), "vendor": item.vendor}
        for item in report.evidence
    ]
    if rows:
        print_rows(rows, Output.TABLE)
    else:
        console.print("evidence     no accelerator: PCI, device nodes, drivers and tools are empty")
    for text in report.contradictions:
        console.print(f"contradiction: {text}", style="yellow", markup=False)


def _print_checks(checks: Sequence[Check]) -> None:
    """A line for each check, and one below it for what to do."""
    console = stdout()
    name_width = max(len(check.name) for check in checks)
    indent = " " * (name_width + 6)
    room = console.width - len(indent) if console.is_terminal else sys.maxsize
    for check in checks:
        mark, style = ("ok", "green") if check.ok else ("no", "red")
        console.print(mark, style=style, end="  ")
        console.print(f"{check.name:<{name_width}}  {check.detail}", markup=False)
        for line in textwrap.wrap(
            check.next_step, room, break_long_words=False, break_on_hyphens=False
        ):
            console.print(indent + line, markup=False)
