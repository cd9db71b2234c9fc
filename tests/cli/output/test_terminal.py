"""What others wrote neither moves a terminal's cursor nor turns its text around."""

import pytest

from foundry.cli.output.terminal import escape_unsafe, printable


@pytest.mark.parametrize(
    ("unsafe", "escaped"),
    [
        ("\x1b[2J", r"\x1b[2J"),
        ("\r", r"\r"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202e", r"\u202e"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_obeys_is_dropped_or_shown_as_an_escape(unsafe: str, escaped: str) -> None:
    assert printable(f"a{unsafe}b") == f"a{unsafe[1:]}b"
    assert escape_unsafe(f"a{unsafe}b") == f"a{escaped}b"


def test_what_people_write_stays() -> None:
    text = "Köln\n\t東京 👩\u200d💻 क\u094d\u200dष \\x1b"
    assert printable(text) == escape_unsafe(text) == text
