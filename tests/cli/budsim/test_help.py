"""Every command has an example, and those that need no server run as they are printed."""

import shlex
from pathlib import Path

import pytest

from foundry.cli.budsim.app import EXAMPLES, app
from foundry.cli.main import run
from foundry.cli.output.exit_codes import UNMET_HELP

_LOCAL = [
    example
    for examples in EXAMPLES.values()
    for example in examples
    if "--config" in example or "--offline" in example
]


def test_examples_cover_the_commands() -> None:
    assert {command.callback for command in app.registered_commands} == set(EXAMPLES)
    assert len(_LOCAL) == 5


@pytest.mark.parametrize("example", _LOCAL)
def test_an_example_runs_without_a_server(
    workplace: Path, capsys: pytest.CaptureFixture[str], example: str
) -> None:
    assert run(shlex.split(example)[1:]) == 0
    shown = capsys.readouterr()
    assert shown.out
    assert "error" not in shown.err


@pytest.mark.parametrize("command", ["recommend", "explain", "predict", "validate"])
def test_the_help_documents_the_exit_code_of_a_no(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(["budsim", command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Examples: foundry budsim {command}" in shown
    assert UNMET_HELP in shown
