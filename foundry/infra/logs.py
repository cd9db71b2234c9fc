"""What Foundry's processes write into their logs: their own steps, not those of libraries."""

import logging
import sys

# They tell at INFO each request that they send, and where credentials were found.
_CHATTY = ("httpx", "botocore", "aiobotocore")
_TIMED = "%(asctime)s %(levelname)s %(message)s"


def configure_logging(*, timed: bool = False) -> None:
    """Write what is worth knowing to standard error, in an entry point, once.

    Args:
        timed: each line begins with when it was written; Ray's own logs have that already.
    """
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format=_TIMED if timed else logging.BASIC_FORMAT
    )
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
