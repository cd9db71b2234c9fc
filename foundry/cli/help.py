"""How `--help` reads: plain text in which no option is cut, and examples that can be copied."""

import re
from collections.abc import Iterator

from typer.core import TyperCommand, TyperGroup

# A terminal's 80 columns, less the indent of an example.
_EXAMPLE_CHARS = 76
_INDENT, _CONTINUED = "  ", "      "
_HEADING = "Examples:"
# Of the format that help is written in: the paragraph keeps its lines.
_AS_IS = "\b\n"
# An option together with what follows it; a quoted text stays whole.
_WORDS = re.compile(r"""(?:-\S+ )?(?:"[^"]*"|'[^']*'|\S)+""")
# A command of ours is no program of its own, so it installs no shell completion.
_COMPLETION = ("install_completion", "show_completion")


def examples(*commands: str) -> str:
    """The end of a command's help: command lines, each of which works as it stands.

    A long one goes on after a backslash, as a shell reads it.
    """
    lines = (line for command in commands for line in _break_command(command))
    return _AS_IS + "\n".join([_HEADING, *lines])


def list_examples(epilog: str | None) -> list[str]:
    """The command lines of `examples`, each on one line."""
    if not epilog or _HEADING not in epilog:
        return []
    joined = epilog.partition(_HEADING)[2].replace("\\\n", " ")
    return [" ".join(line.split()) for line in joined.splitlines() if line.strip()]


def prepare_command(command: TyperCommand | TyperGroup) -> None:
    """Make a loaded command and those below it read as all others do.

    The library's boxes cut the names of long options at 80 columns.
    """
    command.rich_markup_mode = None
    if command.help and not command.short_help:
        # Whole in the list of its group, where a long summary would be cut.
        command.short_help = " ".join(command.help.split("\n\n")[0].split())
    command.params = [item for item in command.params if item.name not in _COMPLETION]
    if isinstance(command, TyperGroup):
        for below in command.commands.values():
            if isinstance(below, TyperCommand | TyperGroup):
                prepare_command(below)


def _break_command(command: str) -> Iterator[str]:
    line, indent = "", _INDENT
    for word in _WORDS.findall(command):
        if line and len(line) + len(word) + 1 > _EXAMPLE_CHARS - len(indent):
            yield f"{indent}{line} \\"
            line, indent = word, _CONTINUED
        else:
            line = f"{line} {word}" if line else word
    yield indent + line
