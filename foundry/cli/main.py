"""Entry point of `foundry`. Commands are imported when they run, so help costs nothing."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper
from typing import Any

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from foundry import __version__
from foundry.cli.completion import COMPLETE_VARIABLE, PROGRAM
from foundry.cli.help import prepare_command
from foundry.cli.output.console import Detached, choose_exit_code, print_error
from foundry.cli.output.exit_codes import EXIT_CODES_HELP, ExitCode
from foundry.errors import FoundryError


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where a command lives: a module with a typer `app`, and its line in the help."""

    module: str
    help: str
    app: str = "app"


COMMANDS: Mapping[str, _Entry] = {
    "up": _Entry("foundry.cli.stack.commands", "Start the local stack", "up_app"),
    "down": _Entry("foundry.cli.stack.commands", "Stop the local stack; data stays", "down_app"),
    "status": _Entry("foundry.cli.stack.commands", "Show the local stack's parts", "status_app"),
    "logs": _Entry("foundry.cli.stack.commands", "Show a part's log", "logs_app"),
    "env": _Entry("foundry.cli.stack.commands", "Print what a shell needs to reach Ray", "env_app"),
    "doctor": _Entry("foundry.cli.doctor", "Check this machine and explain what it found"),
    "config": _Entry("foundry.cli.config", "Show or check the settings"),
    "datasets": _Entry("foundry.cli.datasets.commands", "Add, list, inspect and delete datasets"),
    "models": _Entry("foundry.cli.models", "Models, versions, aliases and lineage"),
    "train": _Entry("foundry.cli.train.commands", "Fine-tune a model"),
    "jobs": _Entry("foundry.cli.jobs.commands", "Watch, cancel and resume jobs"),
    "endpoints": _Entry("foundry.cli.endpoints", "What is served, and what should be"),
    "deploy": _Entry("foundry.cli.endpoints", "Serve a model", "deploy_app"),
    "budsim": _Entry("foundry.cli.budsim.app", "What to set: the cheapest configuration that fits"),
    "keys": _Entry("foundry.cli.keys", "Create, list and revoke API keys"),
    "chat": _Entry("foundry.cli.chat.command", "Talk to a served model"),
    "completion": _Entry("foundry.cli.completion", "Print a shell's completion script"),
}


class _LazyGroup(TyperGroup):
    """A group that knows its commands by name and loads only the one that runs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, entry in COMMANDS.items():
            self.add_command(TyperCommand(name, help=entry.help))

    def resolve_command(self, ctx, args):  # type: ignore[no-untyped-def]
        entry = COMMANDS.get(args[0])
        if entry is None:
            return super().resolve_command(ctx, args)
        app: typer.Typer = getattr(import_module(entry.module), entry.app)
        command = get_command(app)
        assert isinstance(command, TyperCommand | TyperGroup)
        command.help = command.help or entry.help
        prepare_command(command)
        return args[0], command, args[1:]

    def invoke(self, ctx):  # type: ignore[no-untyped-def]
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = _describe_usage_error(error)
            raise


def _describe_usage_error(error: typer.BadParameter) -> str:
    """What is wrong with an option's value, in our words: the library tells pydantic's."""
    from pydantic import ValidationError

    from foundry.validation import find_problem

    if isinstance(error.__cause__, ValidationError):
        return find_problem(error.__cause__.errors()).reason
    return error.message


app = typer.Typer(
    cls=_LazyGroup,
    name="foundry",
    help="Fine-tune, register and serve open models on your own machines.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"foundry {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True),
) -> None:
    """Fine-tune, register and serve open models on your own machines."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line. Returns its exit code; a user never sees a traceback."""
    completion_init()
    try:
        get_command(app).main(
            args=list(sys.argv[1:] if arguments is None else arguments),
            prog_name=PROGRAM,
            complete_var=COMPLETE_VARIABLE,
        )
    except FoundryError as error:
        print_error(error.message)
        return choose_exit_code(error)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else ExitCode.DONE
        if code == ExitCode.INTERRUPTED and not isinstance(end, Detached):
            print_error("interrupted; what was started keeps running: see `foundry status`")
        return code
    return ExitCode.DONE


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        # What others wrote may have characters that this terminal's encoding lacks.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run())


if __name__ == "__main__":
    main()
