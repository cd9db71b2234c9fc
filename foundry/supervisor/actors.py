"""The one supervisor actor of a cluster: there, and of the wanted version.

absent ──start──▶ starting ──tells its version──▶ the wanted one: done
   ▲                                      └─────▶ another ──ended──▶ absent
   └──died before it could tell

One that does not answer is left alone: it may be starting, and whether it is frozen or stuck is the
guard's to judge, by its process and its heartbeat.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.exceptions import GetTimeoutError, RayActorError

from foundry.errors import Unavailable

# Its process imports Ray and every slice: half a minute on two loaded cores.
START_S = 120.0
_POLL_S = 0.5


class Actors(Protocol):
    """Ray's actors of one name. Calls raise what Ray raises."""

    def start_or_find(self, version: str) -> object:
        """A handle of the one that lives, else of a new one."""

    def ask_version(self, actor: object, timeout_s: float) -> str:
        """The version that it was started with.

        Raises:
            AttributeError: it is of a release without versions.
            GetTimeoutError: it does not answer.
            RayActorError: it died.
        """

    def end(self, actor: object) -> None:
        """End it for good; one that has ended already is no error."""


class RayActors:
    """A detached actor of a cluster."""

    def __init__(self, actor: type, name: str, namespace: str) -> None:
        self._options = {"name": name, "namespace": namespace, "get_if_exists": True}
        # On the head node, as Serve's controller: only there it reaches a dashboard on loopback.
        self._actor: Any = ray.remote(
            num_cpus=0,
            max_restarts=-1,
            lifetime="detached",
            resources={HEAD_NODE_RESOURCE_NAME: 0.001},
        )(actor)

    def start_or_find(self, version: str) -> object:
        return self._actor.options(**self._options).remote(version)

    def ask_version(self, actor: Any, timeout_s: float) -> str:
        return str(ray.get(actor.version.remote(), timeout=timeout_s))

    def end(self, actor: Any) -> None:
        ray.kill(actor, no_restart=True)


def ensure_version(
    actors: Actors,
    version: str,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Start the supervisor unless one of this version lives; replace one of another.

    Raises:
        Unavailable: it does not answer in time.
    """
    deadline = clock() + START_S
    while clock() < deadline:
        actor = actors.start_or_find(version)
        try:
            found = actors.ask_version(actor, max(deadline - clock(), 1.0))
        except GetTimeoutError:
            break
        except AttributeError:
            found = ""
        except RayActorError:
            # Its name is free in a moment.
            sleep(_POLL_S)
            continue
        if found == version:
            return
        actors.end(actor)
        sleep(_POLL_S)
    raise Unavailable(
        f"the supervisor did not answer within {START_S:.0f} s: see `foundry status`, "
        "and `foundry logs ray` for its node"
    )
