"""The command line of `foundry chat`."""

import sys
from typing import Annotated

import typer

from foundry.cli import session
from foundry.cli.chat.answering import CUT_OFF, require_served, stream_answer
from foundry.cli.chat.conversation import Conversation, Sampling
from foundry.cli.files import read_standard_input
from foundry.cli.help import examples
from foundry.cli.output.console import Detached, Output, OutputOption, print_json, print_note
from foundry.cli.output.terminal import printable
from foundry.cli.suggestions import suggest_models
from foundry.errors import Conflict, InvalidRequest

app = typer.Typer(add_completion=False)

HISTORY_FILE = "chat_history.jsonl"
_NO_PROMPT = 'there is no prompt: foundry chat MODEL "PROMPT"'


@app.command(
    epilog=examples(
        'foundry chat support-bot@production "Where is my parcel?"',
        "foundry chat support-bot < question.txt",
        "foundry chat support-bot --temperature 0",
    )
)
def chat(
    model: Annotated[
        str,
        typer.Argument(help="name, name@alias or name@1.2.3", autocompletion=suggest_models),
    ],
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="given: standard input is not read; unset: standard input, and on a terminal a "
            "conversation"
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="a system message")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="of an answer")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 to 2; 0: always the likeliest token")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="repeats what chance chose")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Ask a served model, and print its answer as it comes.

    Without a prompt, on a terminal: a conversation, whose /help lists its commands.
    """
    conversation = Conversation(model, system, Sampling(max_tokens, temperature, seed))
    if prompt is None and _is_conversation():
        _hold_conversation(conversation, output)
    else:
        _answer_once(conversation, _read_piped() if prompt is None else prompt, output)


def _is_conversation() -> bool:
    """Both ends must be a terminal: a prompt in a file or a pipe is no conversation."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def _hold_conversation(conversation: Conversation, output: Output) -> None:
    # Takes the terminal's line editor, which a single answer does not need.
    from foundry.cli.chat.history import TypedLines
    from foundry.cli.chat.repl import Repl
    from foundry.config import load_settings

    if output is Output.JSON:
        raise Conflict("--output json prints one answer: give a PROMPT, or pipe it")
    with session.client() as client:
        require_served(client, conversation.model)
        Repl(client, conversation, TypedLines(load_settings().home / HISTORY_FILE)).run()


def _answer_once(conversation: Conversation, prompt: str, output: Output) -> None:
    if not prompt.strip():
        raise InvalidRequest(_NO_PROMPT)
    shown = False

    def show(piece: str) -> None:
        nonlocal shown
        if output is Output.TABLE:
            typer.echo(printable(piece), nl=False)
            shown = True

    with session.client() as client:
        try:
            answer = stream_answer(client, conversation, conversation.begin(prompt), show)
        finally:
            if shown:
                typer.echo()
    if answer.stopped:
        print_note("stopped")
        raise Detached
    if output is Output.JSON:
        print_json({"model": conversation.model, "content": answer.text})
    elif answer.cut:
        print_note(CUT_OFF)


def _read_piped() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise InvalidRequest(_NO_PROMPT)
    return read_standard_input()
