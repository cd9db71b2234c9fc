"""A conversation on a terminal: what is typed is asked, and a line that begins with `/` obeyed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from foundry.cli.chat.answering import CUT_OFF, Answer, name_served, require_served, stream_answer
from foundry.cli.chat.conversation import Conversation, Turn
from foundry.cli.chat.history import TypedLines
from foundry.cli.files import explain_unwritable
from foundry.cli.output.console import print_error, print_note
from foundry.cli.output.terminal import printable
from foundry.errors import ContextLengthExceeded, FoundryError, InvalidRequest

if TYPE_CHECKING:
    from foundry.sdk import Foundry

PROMPT = "> "


class Repl:
    """A conversation that is typed.

    Attributes:
        leaving: nothing more is read.
    """

    def __init__(self, client: Foundry, conversation: Conversation, lines: TypedLines) -> None:
        self._client = client
        self._conversation = conversation
        self._lines = lines
        self.leaving = False

    def run(self) -> None:
        """Read and answer until Ctrl-D or /exit."""
        print_note(f"{self._conversation.model} at {self._client.url}")
        print_note("/help lists commands; Ctrl-C stops an answer, Ctrl-D leaves")
        while not self.leaving and (line := self._lines.read_line(PROMPT)) is not None:
            self._take_line(line)

    def _take_line(self, line: str) -> None:
        try:
            if line.startswith("/") and not line.startswith("//"):
                name, _, rest = line.partition(" ")
                self._run_command(name, rest.strip())
            elif line.strip():
                # A second slash is for prompts that begin with one.
                prompt = line[1:] if line.startswith("//") else line
                self._stream_answer(self._conversation.begin(prompt))
        except FoundryError as error:
            print_error(printable(error.message))
            if isinstance(error, ContextLengthExceeded):
                print_note("/clear forgets what was said, /retry then asks this again")
        except KeyboardInterrupt:
            # A second Ctrl-C, while the first one was obeyed.
            print_note("stopped")

    def _run_command(self, name: str, rest: str) -> None:
        command = COMMANDS.get(name)
        if command is None:
            print_error(f"there is no command {printable(name)}; a prompt like it begins with //")
            command = COMMANDS["/help"]
        command.run(self, rest)

    def _stream_answer(self, turn: Turn) -> None:
        shown = ""

        def show(piece: str) -> None:
            nonlocal shown
            shown = printable(piece) or shown
            typer.echo(printable(piece), nl=False)

        try:
            answer = stream_answer(self._client, self._conversation, turn, show)
        finally:
            if shown and not shown.endswith("\n"):
                typer.echo()
        if answer.text:
            self._conversation.keep(turn, answer.text)
        if told := _describe_end(answer):
            print_note(told)

    def show_help(self, rest: str) -> None:
        for command in COMMANDS.values():
            typer.echo(f"{command.usage:<22}{command.help}")

    def choose_model(self, name: str) -> None:
        if not name:
            served = name_served(self._client.chat.models())
            print_note(f"this is {self._conversation.model}; served {served}")
            return
        require_served(self._client, name)
        self._conversation.model = name
        print_note(f"from now on {printable(name)} answers, and reads what was said before")

    def set_system(self, text: str) -> None:
        self._conversation.system = text or None
        print_note("the system message is set" if text else "there is no system message now")

    def set_sampling(self, assignments: str) -> None:
        self._conversation.sampling = self._conversation.sampling.apply_settings(assignments)
        print_note(str(self._conversation.sampling))

    def ask_again(self, rest: str) -> None:
        turn = self._conversation.begin_again()
        if turn is None:
            raise InvalidRequest("nothing was asked yet")
        self._stream_answer(turn)

    def save(self, name: str) -> None:
        messages = self._conversation.list_kept_messages()
        if not messages:
            raise InvalidRequest("there is no answer to save yet")
        file = Path(name).expanduser()
        if file.suffix != ".jsonl":
            raise InvalidRequest("give a file whose name ends with .jsonl")
        _append_row(file, {"messages": messages})
        print_note(f"added as a row: {printable(str(file))}, for `foundry datasets add`")

    def clear(self, rest: str) -> None:
        count = self._conversation.clear()
        print_note(f"forgot {count} exchange{'' if count == 1 else 's'}")

    def leave(self, rest: str) -> None:
        self.leaving = True


@dataclass(frozen=True, slots=True)
class _Command:
    usage: str
    help: str
    run: Callable[[Repl, str], None]


COMMANDS: Mapping[str, _Command] = {
    command.usage.partition(" ")[0]: command
    for command in (
        _Command("/help", "these commands", Repl.show_help),
        _Command("/model NAME", "another model; without NAME: which are served", Repl.choose_model),
        _Command("/system TEXT", "a system message; without TEXT: none", Repl.set_system),
        _Command(
            "/set temperature=0",
            "also max_tokens=, seed=; no value: the default",
            Repl.set_sampling,
        ),
        _Command("/retry", "ask the last prompt again", Repl.ask_again),
        _Command("/save FILE.jsonl", "add the conversation as a dataset row", Repl.save),
        _Command("/clear", "forget what was said", Repl.clear),
        _Command("/exit", "leave, as Ctrl-D does", Repl.leave),
    )
}


def _describe_end(answer: Answer) -> str:
    if answer.stopped:
        kept = "what came is kept in the conversation; " if answer.text else ""
        return f"stopped; {kept}/retry asks again"
    if not answer.text:
        return "the answer is empty"
    return CUT_OFF if answer.cut else ""


def _append_row(file: Path, row: object) -> None:
    try:
        with file.open("a", encoding="utf-8") as writer:
            writer.write(json.dumps(row) + "\n")
    except OSError as error:
        raise explain_unwritable(file, error) from error
