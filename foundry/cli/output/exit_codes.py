"""How a command ends, as a number for programs: the one list, from which the help is made."""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ends.

    Attributes:
        description: in the words of the help.
    """

    description: str

    def __new__(cls, value: int, description: str) -> "ExitCode":
        member = int.__new__(cls, value)
        member._value_ = value
        member.description = description
        return member

    DONE = 0, "done"
    FAILED = 1, "it failed, or a part is not well"
    INVALID = 2, "wrong usage or invalid input"
    NOT_FOUND = 3, "not found"
    NOT_ALLOWED = 4, "not allowed"
    UNAVAILABLE = 5, "unavailable, try again"
    CONFLICT = 6, "conflicts with what is there, or with another option"
    UNMET = 7, "answered, and the answer is no"
    INTERRUPTED = 130, "interrupted"


EXIT_CODES_HELP = f"Exit codes: {'; '.join(f'{code:d} {code.description}' for code in ExitCode)}."
# Of the commands that judge a configuration.
UNMET_HELP = f"Exit code {ExitCode.UNMET:d}: {ExitCode.UNMET.description}"
