"""Of what the running applications are made."""

from collections.abc import Sequence

from foundry.config import Settings
from foundry.infra.embedded.plan import digest_wanted_stack
from foundry.infra.embedded.stack_digest import version_of


def find_version(settings: Settings, arguments: Sequence[str]) -> str:
    """Equal code and settings have equal versions: what runs with them is left alone.

    Args:
        arguments: of the command line: the version that the caller has noted; default: this
            checkout's.
    """
    return arguments[0] if arguments else version_of(digest_wanted_stack(settings))
