"""`foundry up`, `down`, `status`, `logs`, `env`: the stack on this machine."""

import shlex
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from foundry.cli import session
from foundry.cli.help import examples
from foundry.cli.output.console import (
    Output,
    OutputOption,
    print_json,
    print_rows,
    show_activity,
    stdout,
)
from foundry.cli.output.exit_codes import ExitCode
from foundry.cli.stack.restarting import approve_plan, close_paths, print_plan
from foundry.cli.stack.running_work import RunningWork, read_running_work
from foundry.config import Settings, load_settings
from foundry.errors import FoundryError, NotFound
from foundry.infra.embedded import postgres, stack
from foundry.infra.embedded.health import PartStatus
from foundry.infra.embedded.paths import ray_dir
from foundry.infra.embedded.processes import list_stack_processes
from foundry.infra.embedded.state import StackState, load_state, stack_id

up_app = typer.Typer(add_completion=False)
down_app = typer.Typer(add_completion=False)
status_app = typer.Typer(add_completion=False)
logs_app = typer.Typer(add_completion=False)
env_app = typer.Typer(add_completion=False)

_FOLLOW_POLL_S = 0.3
_ENDPOINT_COLUMNS = ("name", "model", "state", "last_error")
_JOB_COLUMNS = ("id", "name", "kind", "state", "created_at", "waiting_for")
_PARTIAL = (
    "what had started keeps running: `foundry up` tries again from there, `foundry down` stops it"
)


@up_app.command(epilog=examples("foundry up", "foundry up --plan", "foundry up --yes"))
def up(
    plan: Annotated[
        bool, typer.Option("--plan", help="print what would be done, and change nothing")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="restart what runs without asking")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Start PostgreSQL, Ray and the HTTP applications, or whatever of them is not running.

    What runs with another checkout or other settings has to be restarted: `up` says what that
    interrupts and asks; without a terminal it needs --yes.
    """
    settings = load_settings()
    wanted = stack.plan_up(settings)
    if plan:
        print_plan(settings, wanted, output)
        return
    approved = approve_plan(settings, wanted, yes=yes)
    close_paths(settings.home)
    before = time.monotonic()
    with show_activity("starting") as progress:
        try:
            state = stack.up(settings, progress, approved)
        except FoundryError as error:
            if list_stack_processes(stack_id(settings.home)):
                raise type(error)(f"{error.message}; {_PARTIAL}") from error
            raise
    _print_started(settings, state, time.monotonic() - before, output)


@down_app.command(epilog=examples("foundry down"))
def down(output: OutputOption = Output.TABLE) -> None:
    """Stop every process of the stack. Data, models and datasets stay in FOUNDRY_HOME."""
    home = load_settings().home
    with show_activity("stopping") as progress:
        report = stack.down(home, progress)
    if output is Output.JSON:
        print_json(asdict(report))
        return
    sentence = f"stopped {report.stopped} processes" if report.stopped else "nothing was running"
    if report.home_missing and report.stopped:
        sentence += f"; {home} was deleted while it ran: `foundry up` starts afresh, without data"
    stdout().print(sentence, markup=False)


@status_app.command(epilog=examples("foundry status", "foundry status --output json"))
def status(output: OutputOption = Output.TABLE) -> None:
    """Show each part with its pid and port, and what runs. Exits with 1 if one is not healthy."""
    settings = load_settings()
    parts = stack.status(settings)
    state = load_state(settings.home)
    work = None if state is None else read_running_work(settings, state.url)
    _print_status(settings, parts, work, output)
    if not all(part.healthy for part in parts):
        raise typer.Exit(ExitCode.FAILED)


@logs_app.command(epilog=examples("foundry logs serve --lines 20", "foundry logs ray --follow"))
def logs(
    part: Annotated[str, typer.Argument(help="postgres, ray, bootstrap, serve, …")] = "serve",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="wait for more")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="so many of the last")] = 50,
) -> None:
    """Show the end of a part's logs."""
    files = _list_log_files(load_settings().home, part)
    for path in files:
        if len(files) > 1:
            typer.echo(f"==> {path} <==")
        with path.open(errors="replace") as reader:
            typer.echo("".join(deque(reader, maxlen=lines)), nl=False)
    if follow:
        _follow_files(files)


@env_app.command(epilog=examples('eval "$(foundry env)"'))
def env() -> None:
    """Print shell exports for `ray job submit` and friends: eval "$(foundry env)"."""
    for name, value in stack.client_environment(load_settings()).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def _status_row(part: PartStatus) -> dict[str, object]:
    return {
        "part": part.part,
        "state": part.condition.value,
        "healthy": part.healthy,
        "detail": part.detail,
        "pid": part.pid,
        "port": part.port,
    }


def _print_status(
    settings: Settings, parts: list[PartStatus], work: RunningWork | None, output: Output
) -> None:
    rows = [_status_row(part) for part in parts]
    endpoints = [] if work is None else session.records(work.endpoints)
    jobs = [] if work is None else session.records(work.jobs)
    if output is Output.JSON:
        told = work is not None
        print_json({"parts": rows, "endpoints": endpoints, "jobs": jobs, "work_known": told})
        return
    print_rows(rows, output, columns=("part", "state", "detail", "pid", "port"))
    if work is None:
        return
    stdout().print()
    print_rows(endpoints, output, columns=_ENDPOINT_COLUMNS, empty="nothing is served")
    stdout().print()
    print_rows(jobs, output, columns=_JOB_COLUMNS, empty="no job runs or waits")
    stdout().print(f"\n{settings.base_url}/v1, key in {stack.credentials_file(settings.home)}")


def _print_started(settings: Settings, state: StackState, took_s: float, output: Output) -> None:
    record = {
        "url": f"{state.url}/v1",
        "api_key_file": str(stack.credentials_file(settings.home)),
        "dashboard": None
        if settings.ray.address
        else f"http://{settings.ray.dashboard_host}:{settings.ray.dashboard_port}",
        "home": str(settings.home),
        "seconds": round(took_s, 1),
    }
    if output is Output.JSON:
        print_json(record)
        return
    console = stdout()
    console.print(f"Foundry runs ({took_s:.0f} s)", style="bold green")
    for name in ("url", "api_key_file", "dashboard"):
        console.print(f"  {name.replace('_', ' '):<13} {record[name] or 'external'}", markup=False)
    console.print("  next          foundry models list · foundry status · foundry down")


def _list_log_files(home: Path, part: str) -> list[Path]:
    session = ray_dir(home) / "session_latest" / "logs"
    if not session.is_dir():
        session = home / "logs" / "ray-last"
    candidates = {
        "postgres": [postgres.log_file(home)],
        "ray": [home / "logs" / "ray.log", *sorted(session.glob("raylet.*"))],
        "serve": [home / "logs" / "serve.log", *sorted((session / "serve").glob("*.log"))],
    }
    candidates |= {
        path.stem: [path] for path in (home / "logs").glob("*.log") if path.stem not in candidates
    }
    if part not in candidates:
        raise NotFound(f"no part is called {part!r}: choose from {', '.join(sorted(candidates))}")
    found = [path for path in candidates[part] if path.is_file()]
    if not found:
        raise NotFound(f"{part} has written no log yet in {home}: start it with `foundry up`")
    return found


def _follow_files(files: list[Path]) -> None:
    readers = [path.open(errors="replace") for path in files]
    for reader in readers:
        reader.seek(0, 2)
    while True:
        fresh = [text for reader in readers if (text := reader.read())]
        for text in fresh:
            typer.echo(text, nl=False)
        if not fresh:
            time.sleep(_FOLLOW_POLL_S)
