"""Text that others wrote, on its way to a terminal."""

import re

# A model or a job may print escape sequences, which could rewrite the screen or the clipboard.
# A lone surrogate, which JSON can hold, would end the program that prints it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """Without control characters other than line breaks and tabs."""
    return _CONTROL.sub("", text)
