"""What `foundry up` tells and asks before it does anything."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from foundry.cli.output.console import Output, print_json, print_note, print_warning, stdout
from foundry.cli.session import can_ask, confirm
from foundry.cli.stack.running_work import read_running_work
from foundry.config import Settings
from foundry.enumeration import name_first
from foundry.infra.embedded.file_modes import (
    close_owned_paths,
    describe_paths,
    find_owned_open_paths,
)
from foundry.infra.embedded.plan import Plan
from foundry.infra.embedded.state import load_state

_NAMED = 5


def print_plan(settings: Settings, plan: Plan, output: Output) -> None:
    """The answer to `--plan`."""
    work = list_interrupted_work(settings, plan)
    opened = [found.path for found in find_owned_open_paths(settings.home)]
    if output is Output.JSON:
        print_json({**asdict(plan), "interrupts": work, "closes": opened})
        return
    for line in (*plan.lines(), *work):
        stdout().print(f"plan: {line}", markup=False)
    if opened:
        told = describe_paths(settings.home, opened)
        stdout().print(f"plan: close to other accounts {told}", markup=False)


def close_paths(home: Path) -> None:
    """Close what other accounts may read or write of Foundry's files, and say so."""
    if closed := close_owned_paths(home):
        print_note(f"closed to other accounts: {describe_paths(home, closed)}")


def approve_plan(settings: Settings, plan: Plan, *, yes: bool) -> Plan:
    """The plan, once somebody has agreed to what it restarts.

    Raises:
        InvalidRequest: nobody is there to be asked, and `--yes` was not given.
        typer.Exit: the answer was no.
    """
    if not plan.restarts:
        return plan
    for line in (*plan.lines(), *list_interrupted_work(settings, plan)):
        print_warning(f"plan: {line}")
    if not yes and not can_ask():
        # It says what has changed as well.
        plan.require_approval(None)
    confirm(f"restart {', '.join(plan.restarts)}", yes)
    return plan


def list_interrupted_work(settings: Settings, plan: Plan) -> list[str]:
    """What runs on the parts that are restarted, in words; empty if that is not known."""
    state = load_state(settings.home)
    if not plan.restarts or state is None:
        return []
    work = read_running_work(settings, state.url)
    if work is None:
        # It is asked for information only; what does not answer serves nobody either.
        return ["what runs there does not answer, so its endpoints and jobs are not known"]
    served = [row.name for row in work.endpoints if row.state == "RUNNING"]
    jobs = [str(row.id) for row in work.jobs if row.state == "RUNNING"]
    return [*_describe_interrupted("endpoint", served), *_describe_interrupted("job", jobs)]


def _describe_interrupted(kind: str, names: list[str]) -> Iterator[str]:
    if names:
        plural = "s" if len(names) > 1 else ""
        yield f"interrupts {len(names)} running {kind}{plural}: {name_first(names, _NAMED)}"
