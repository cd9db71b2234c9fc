"""Bring up Foundry's applications on the cluster at RAY_ADDRESS; safe to repeat.

What runs with the same code and settings is left alone, the rest is replaced without a gap.

`python -m serve_apps.start [VERSION]`: the last step of `foundry up`, and all there is to do on a
cluster that somebody else runs.
"""

import asyncio
import logging
import sys

import ray
from ray import serve
from ray.serve.config import HTTPOptions

from foundry.config import Settings, child_environment, load_settings
from foundry.errors import FoundryError, SetupError
from foundry.governance.identity.pepper import load_pepper
from foundry.infra.cluster_hardening import require_hardened
from foundry.infra.database_roles import DatabaseRole
from foundry.infra.migrations import upgrade
from foundry.infra.node_hardening import require_hardened_nodes
from foundry.infra.wiring import database_url
from serve_apps import control, gateway
from serve_apps.nodes import ask_nodes
from serve_apps.supervisor import NAMESPACE, ensure_supervisor
from serve_apps.version import find_version


def _print_progress(text: str) -> None:
    sys.stdout.write(f"progress: {text}\n")
    sys.stdout.flush()


def start_applications(settings: Settings, version: str) -> None:
    """Migrate, then start what does not run with this version.

    Raises:
        SetupError: the cluster is open to strangers.
    """
    load_pepper(settings)
    require_hardened(settings, child_environment())
    ray.init(
        address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING
    )
    if settings.ray.address is not None:
        _print_progress("asking every node how it was started")
        require_hardened_nodes(ask_nodes)
        _print_progress("applying migrations")
        asyncio.run(upgrade(database_url(settings, DatabaseRole.MIGRATE)))
    _print_progress("starting Ray Serve")
    serve.start(http_options=HTTPOptions(host=settings.http.host, port=settings.http.port))
    _print_progress("starting the gateway and the control API")
    made = {"version": version}
    serve.run_many(
        [
            serve.RunTarget(target=gateway.build(made), name="gateway", route_prefix="/v1"),
            serve.RunTarget(target=control.build(made), name="control", route_prefix="/"),
        ]
    )
    _print_progress("starting the supervisor")
    ensure_supervisor(version)


def main() -> None:
    try:
        settings = load_settings()
        start_applications(settings, find_version(settings, sys.argv[1:]))
    except FoundryError as error:
        sys.stderr.write(error.message + "\n")
        # What `foundry.infra.embedded.steps` makes of it: 2 is for settings.
        sys.exit(2 if isinstance(error, SetupError) else 1)


if __name__ == "__main__":
    main()
