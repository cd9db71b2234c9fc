"""The names that a shell may complete, as the server has them.

A shell waits for the answer with the cursor in the middle of a line. So there is one deadline for
everything, and whatever goes wrong suggests nothing: no server, no key, a wrong setting.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from threading import Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foundry.sdk import Foundry

# Longer, and typing goes on before the names are there.
DEADLINE_S = 1.0
# More are no help on a screen, and would take more than one page.
MAX_NAMES = 200


def suggest_models(incomplete: str) -> list[str]:
    """Names; behind `name@` its aliases and versions."""

    def list_names(client: "Foundry") -> Iterable[str]:
        name, at, _ = incomplete.partition("@")
        if not at:
            found = client.models.list(prefix=incomplete or None, limit=MAX_NAMES)
            return (model.name for model in found.data)
        aliases = [alias.name for alias in client.models.get(name).aliases]
        versions = [row.version for row in client.models.versions(name, limit=MAX_NAMES).data]
        return (f"{name}@{text}" for text in [*aliases, *versions])

    return _collect(list_names, incomplete)


def suggest_datasets(incomplete: str) -> list[str]:
    """Names; behind `name@` its versions."""

    def list_names(client: "Foundry") -> Iterable[str]:
        name, at, _ = incomplete.partition("@")
        if not at:
            return (dataset.name for dataset in client.datasets.list(limit=MAX_NAMES).data)
        return (row.reference for row in client.datasets.versions(name, limit=MAX_NAMES).data)

    return _collect(list_names, incomplete)


def suggest_jobs(incomplete: str) -> list[str]:
    """`last` and names; ids, where one was begun."""

    def list_names(client: "Foundry") -> Iterable[str]:
        jobs = client.jobs.list(limit=MAX_NAMES).data
        ids = [str(job.id) for job in jobs] if incomplete else []
        return [*(["last"] if jobs else []), *(job.name for job in jobs), *ids]

    return _collect(list_names, incomplete)


def suggest_endpoints(incomplete: str) -> list[str]:
    """Names; ids, where one was begun."""

    def list_names(client: "Foundry") -> Iterable[str]:
        endpoints = client.endpoints.list(limit=MAX_NAMES).data
        ids = [str(endpoint.id) for endpoint in endpoints] if incomplete else []
        return [*(endpoint.name for endpoint in endpoints), *ids]

    return _collect(list_names, incomplete)


def suggest_keys(incomplete: str) -> list[str]:
    """Names, and ids where one was begun, of keys that are not revoked."""

    def list_names(client: "Foundry") -> Iterable[str]:
        keys = [key for key in client.keys.list(limit=MAX_NAMES).data if key.revoked_at is None]
        return [*(key.name for key in keys), *(key.id for key in keys if incomplete)]

    return _collect(list_names, incomplete)


def suggest_recommendations(incomplete: str) -> list[str]:
    """`last` and models; ids, where one was begun."""

    def list_names(client: "Foundry") -> Iterable[str]:
        rows = client.budsim.recommendations(limit=MAX_NAMES).data
        ids = [str(row.id) for row in rows] if incomplete else []
        return [*(["last"] if rows else []), *(row.model for row in rows if row.model), *ids]

    return _collect(list_names, incomplete)


def _collect(list_names: Callable[["Foundry"], Iterable[str]], incomplete: str) -> list[str]:
    """Each name once, in the server's order; none, if they are not there in time."""
    # Only a command line that is completed pays for the SDK; the deadline is for the network.
    from foundry.config import load_settings
    from foundry.sdk import Foundry

    found: list[str] = []

    def open_client() -> Foundry:
        return Foundry(settings=load_settings(), timeout_s=DEADLINE_S)

    def ask() -> None:
        # Anything that is printed now lands in the line that is being typed.
        with suppress(Exception), open_client() as client:
            names = (name for name in list_names(client) if name.startswith(incomplete))
            found.extend(islice(dict.fromkeys(names), MAX_NAMES))

    # A client's timeout is for one read, and a name server knows none: a thread can be left behind.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(DEADLINE_S)
    return list(found)
