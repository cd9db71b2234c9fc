"""`foundry chat`: one question to a served model."""

import sys
from typing import Annotated

import typer

from foundry.cli import session
from foundry.cli.console import Output, OutputOption, print_json
from foundry.cli.terminal import printable
from foundry.errors import InvalidRequest

app = typer.Typer(add_completion=False)


@app.command(epilog='Example: foundry chat support-bot@production "Where is my parcel?"')
def chat(
    model: Annotated[str, typer.Argument(help="name, name@alias or name@1.2.3")],
    prompt: Annotated[str | None, typer.Argument(help="unset: standard input")] = None,
    system: Annotated[str | None, typer.Option(help="a system message")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0)] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask a served model, and print its answer as it comes."""
    messages = [{"role": "user", "content": prompt or _piped()}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    pieces: list[str] = []
    with session.client() as client:
        for piece in client.chat.stream(
            model, messages, max_tokens=max_tokens, temperature=temperature, seed=seed
        ):
            pieces.append(piece)
            if output is Output.TABLE:
                typer.echo(printable(piece), nl=False)
    if output is Output.JSON:
        print_json({"model": model, "content": "".join(pieces)})
    else:
        typer.echo()


def _piped() -> str:
    text = "" if sys.stdin.isatty() else sys.stdin.read()
    if not text.strip():
        raise InvalidRequest('there is no prompt: foundry chat MODEL "PROMPT"')
    return text
