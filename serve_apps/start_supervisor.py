"""Start only the supervisor: `python -m serve_apps.start_supervisor [VERSION]`.

A guard's way to bring it back: the gateway and the control API keep their replicas.
"""

import logging
import sys

import ray

from foundry.config import load_settings
from foundry.errors import FoundryError
from serve_apps.supervisor import NAMESPACE, ensure_supervisor
from serve_apps.version import find_version


def main() -> None:
    try:
        settings = load_settings()
        ray.init(
            address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING
        )
        ensure_supervisor(find_version(settings, sys.argv[1:]))
    except FoundryError as error:
        sys.stderr.write(error.message + "\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
