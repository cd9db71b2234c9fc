"""What a failed installation step means, in one sentence with a next step."""

import re

_UNREACHABLE = (
    "error sending request",
    "failed to fetch",
    "dns error",
    "connection refused",
    "could not connect",
    "failed to establish a new connection",
    "name resolution",
    "timed out",
    "network is unreachable",
)
_MISSING = ("no solution found", "was not found in", "no matching distribution", "no version of")
_DRAWING = re.compile(r"^[^A-Za-z0-9/]+")
_ADDRESS = re.compile(r"https?://[^\s`'\")]+")


class InstallError(Exception):
    """One sentence for the user; `output` is what the failed program printed."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


def unreachable(output: str) -> bool:
    text = output.lower()
    return any(phrase in text for phrase in _UNREACHABLE)


def lacks_package(output: str) -> bool:
    """The sources answered and do not have it: another matter than not answering."""
    text = output.lower()
    return not unreachable(output) and any(phrase in text for phrase in _MISSING)


def explain(output: str, doing: str) -> str:
    """The sentence for a program's failure while `doing` something."""
    if "No space left" in output or "os error 28" in output:
        return f"no space is left on the disk while {doing}: free at least 8 GiB and run it again"
    if unreachable(output):
        address = _ADDRESS.search(output)
        where = address.group() if address else "the package index"
        return (
            f"{where} cannot be reached while {doing}: check the network, or point PIP_INDEX_URL "
            "at a mirror or PIP_FIND_LINKS at a folder of wheels"
        )
    if "hash" in output.lower() and "mismatch" in output.lower():
        return (
            f"a file differs from the lock while {doing}: the mirror serves another build; "
            "use PyPI's files, or run `make lock` against your mirror"
        )
    if lacks_package(output):
        return f"a package is missing from your sources while {doing}: {last_sentence(output)}"
    return f"{doing} failed: {last_sentence(output)}"


def last_sentence(output: str) -> str:
    lines = [_DRAWING.sub("", line).strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" not in line.lower()[:6]), "no output")
