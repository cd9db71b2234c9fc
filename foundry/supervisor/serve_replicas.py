"""The replicas of an engine application, as the actors that they are.

Ray Serve tells neither how many requests an application that is being deleted still answers, nor
does it end them before its own grace period. Both are asked of the actors, by Serve's naming:
`SERVE_REPLICA::<application>#<deployment>#<id>` in the namespace `serve`. Everything here blocks.
"""

from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors

_NAMESPACE = "serve"
_PREFIX = "SERVE_REPLICA::"
# A replica counts on a thread of its own, in milliseconds whatever its engine does.
_ANSWER_S = 2.0


def count_running_requests(app_name: str, deployment: str) -> int | None:
    """Requests that a deployment's replicas answer at the moment; None: one does not tell."""
    asked = [
        actor.get_num_ongoing_requests.remote()
        for actor in _list_actors(f"{_PREFIX}{app_name}#{deployment}#")
    ]
    told, silent = ray.wait(asked, num_returns=len(asked), timeout=_ANSWER_S) if asked else ([], [])
    if silent:
        return None
    try:
        counts: list[int] = ray.get(told)
    except RayError:
        # It ended meanwhile: the next look counts without it.
        return None
    return sum(counts)


def kill_replicas(app_name: str) -> None:
    """Kill the actors of an application, and with them the requests that they answer."""
    for actor in _list_actors(f"{_PREFIX}{app_name}#"):
        ray.kill(actor, no_restart=True)


def _list_actors(prefix: str) -> Iterator[Any]:
    for actor in list_named_actors(all_namespaces=True):
        if actor["namespace"] == _NAMESPACE and actor["name"].startswith(prefix):
            try:
                yield ray.get_actor(actor["name"], namespace=_NAMESPACE)
            except ValueError:
                # It ended after it was listed.
                continue
