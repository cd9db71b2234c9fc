"""How help reads, and how a shell completes."""

import re
import shlex
from collections.abc import Iterator

import pytest
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from foundry.cli.completion import COMPLETE_VARIABLE
from foundry.cli.help import examples, list_examples
from foundry.cli.main import app, run

LONG = (
    "foundry train sft --base smollm2-135m --dataset support@1 --name support-bot "
    '--system "two words" --epochs 3 --lr 2e-4'
)


def list_commands(
    group: TyperGroup, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    """Every command that does something, with the words that lead to it."""
    context = group.make_context("foundry", ["x"], resilient_parsing=True)
    for name in group.list_commands(context):
        _, command, _ = group.resolve_command(context, [name])
        if isinstance(command, TyperGroup):
            yield from list_commands(command, (*above, name))
        else:
            assert isinstance(command, TyperCommand)
            yield (*above, name), command


def _root() -> TyperGroup:
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    return root


def _parse_example(command: TyperCommand, words: tuple[str, ...], example: str) -> None:
    """Raises UsageError: it is no command line of that command."""
    inside = re.search(r"\$\((.*)\)", example)
    line = inside[1] if inside else re.split(" [<>] ", example)[0]
    arguments = shlex.split(line)[1 + len(words) :]
    command.make_context(" ".join(words), arguments)


COMMANDS = dict(list_commands(_root()))


def test_examples_are_cut_where_a_shell_goes_on() -> None:
    written = examples(LONG, "foundry jobs list")
    lines = written.splitlines()
    assert max(map(len, lines)) <= 78
    assert lines[-1] == "  foundry jobs list"
    assert '"two words"' in written
    assert list_examples(written) == [LONG, "foundry jobs list"]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_in_80_columns(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run([*words, "-h"]) == 0
    shown = capsys.readouterr().out
    command = COMMANDS[words]
    assert max(map(len, shown.splitlines())) <= 80
    for option in (name for param in command.params for name in param.opts if name[0] == "-"):
        assert option in shown
    silent = [param.name for param in command.params if not getattr(param, "help", None)]
    assert silent == [], "options without a word"
    listed = list_examples(command.epilog)
    assert listed, "it has no example"
    for example in listed:
        _parse_example(command, words, example)
    assert all(" ".join(("foundry", *words)) in example for example in listed)


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("foundry jo", ["jobs"]),
        ("foundry jobs re", ["resume"]),
        ("foundry jobs list --st", ["--state"]),
        ("foundry models alias se", ["set"]),
    ],
)
def test_a_shell_completes(
    line: str,
    completed: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(COMPLETE_VARIABLE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    assert run([]) == 0
    assert capsys.readouterr().out.split() == completed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_the_program(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert COMPLETE_VARIABLE in script
    assert f"complete_{shell}" in script


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("jobs list --limit 0", "Invalid value for '--limit' / '-n': must be at least 1"),
        ("jobs list --limit x", "Invalid value for '--limit' / '-n': must be a whole number"),
        (
            "jobs list -o xml",
            "Invalid value for '--output' / '-o': 'xml' is not one of 'table', 'json'.",
        ),
        ("endpoints scale x 0", "Invalid value for 'replicas': must be at least 1"),
        ("chat m p --temperature hot", "Invalid value for '--temperature': must be a number"),
    ],
)
def test_a_wrong_value_is_told_in_our_words(
    command: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command.split()) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"Error: {says}"
