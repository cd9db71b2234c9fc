"""Text that others wrote, on its way to a terminal."""

import re

# A model or a job may print escape sequences, which could rewrite the screen or the clipboard;
# marks of direction, which show text in another order than it is read; a lone surrogate, which JSON
# can hold, would end the program that prints it. Joiners stay: emoji and some scripts need them.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Drop what a terminal obeys; line breaks and tabs stay."""
    return _UNSAFE.sub("", text)


def escape_unsafe(text: str) -> str:
    """Write what a terminal obeys as Python writes it, for data that a person looks through."""
    return _UNSAFE.sub(lambda found: ascii(found.group())[1:-1], text)
