"""The numbers that commands end with, and how the help tells them."""

import pytest

from foundry.cli.main import run
from foundry.cli.output.exit_codes import EXIT_CODES_HELP, UNMET_HELP, ExitCode


def test_the_numbers_are_stable() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "DONE": 0,
        "FAILED": 1,
        "INVALID": 2,
        "NOT_FOUND": 3,
        "NOT_ALLOWED": 4,
        "UNAVAILABLE": 5,
        "CONFLICT": 6,
        "UNMET": 7,
        "INTERRUPTED": 130,
    }


def test_the_help_tells_every_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert EXIT_CODES_HELP == (
        "Exit codes: 0 done; 1 it failed, or a part is not well; 2 wrong usage or invalid input; "
        "3 not found; 4 not allowed; 5 unavailable, try again; 6 conflicts with what is there, or "
        "with another option; 7 answered, and the answer is no; 130 interrupted."
    )
    assert UNMET_HELP == "Exit code 7: answered, and the answer is no"
    assert run(["--help"]) == 0
    assert EXIT_CODES_HELP in " ".join(capsys.readouterr().out.split())
