"""`foundry completion`: the script by which a shell completes commands, options and names."""

from typing import Annotated, Literal

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]

from foundry.cli.help import examples

PROGRAM = "foundry"
# What the script sets when it asks the program for completions.
COMPLETE_VARIABLE = "_FOUNDRY_COMPLETE"

app = typer.Typer(add_completion=False)


@app.command(
    epilog=examples(
        'eval "$(foundry completion bash)"',
        "foundry completion fish > ~/.config/fish/completions/foundry.fish",
    )
)
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="yours")],
) -> None:
    """Print a script with which a shell completes commands, options and names."""
    typer.echo(
        get_completion_script(prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, shell=shell)
    )
