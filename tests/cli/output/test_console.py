"""What commands print beside their result, on standard error."""

import pytest

from foundry.cli.output.console import Output, print_next, print_note, print_warning

Capture = pytest.CaptureFixture[str]


def test_the_first_of_what_is_next_is_named(capsys: Capture) -> None:
    print_next("foundry deploy bot", 'foundry chat bot "[Hello]"', output=Output.TABLE)
    shown = capsys.readouterr()
    assert shown.err == 'next: foundry deploy bot\n      foundry chat bot "[Hello]"\n'
    assert shown.out == ""


def test_a_program_is_told_no_next_step(capsys: Capture) -> None:
    print_next("foundry deploy bot", output=Output.JSON)
    print_next(output=Output.TABLE)
    assert capsys.readouterr().err == ""


def test_notes_are_dim_and_warnings_yellow(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_note("it pointed at [1]")
    print_warning("a refit is due")
    assert capsys.readouterr().err == (
        "\x1b[2mit pointed at [1]\x1b[0m\n\x1b[33ma refit is due\x1b[0m\n"
    )
