"""Bring up Foundry's applications on the cluster at RAY_ADDRESS; safe to repeat.

`python -m serve_apps.start`: the last step of `foundry up`, and all there is to do on a cluster
that somebody else runs.
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
from foundry.infra.embedded.postgres import Role
from foundry.infra.migrations import upgrade
from foundry.infra.wiring import database_url
from serve_apps import control, gateway
from serve_apps.nodes import ask_nodes, require_hardened_nodes
from serve_apps.security import require_hardened
from serve_apps.supervisor import NAMESPACE, ensure_supervisor


def _say(text: str) -> None:
    sys.stdout.write(f"progress: {text}\n")
    sys.stdout.flush()


def start(settings: Settings) -> None:
    load_pepper(settings)
    require_hardened(settings, child_environment())
    ray.init(
        address="auto", namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING
    )
    if settings.ray.address is not None:
        _say("asking every node how it was started")
        require_hardened_nodes(ask_nodes)
        _say("applying migrations")
        asyncio.run(upgrade(database_url(settings, Role.MIGRATE)))
    _say("starting Ray Serve")
    serve.start(http_options=HTTPOptions(host=settings.http.host, port=settings.http.port))
    _say("starting the gateway and the control API")
    serve.run_many(
        [
            serve.RunTarget(target=gateway.build({}), name="gateway", route_prefix="/v1"),
            serve.RunTarget(target=control.build({}), name="control", route_prefix="/api"),
        ]
    )
    _say("starting the supervisor")
    ensure_supervisor()


def main() -> None:
    try:
        start(load_settings())
    except FoundryError as error:
        sys.stderr.write(error.message + "\n")
        sys.exit(2 if isinstance(error, SetupError) else 1)


if __name__ == "__main__":
    main()
