"""What a person typed for a job or a key → the row, where the SDK's own answer is not enough.

`client.jobs.get`, `client.endpoints.get` and `client.budsim.recommendation` take an id, a beginning
of one, a name, and where there is a newest also `last`.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from foundry.cli.output.console import print_note
from foundry.errors import Conflict, NotFound

if TYPE_CHECKING:
    from foundry.execution.jobs.schemas import JobOut
    from foundry.governance.identity.schemas import KeyOut
    from foundry.sdk import Foundry

# So many of an ambiguous beginning are named.
_NAMED = 5
# A tenant has tens of keys; these are looked through for a name.
_MOST_KEYS = 1000


def find_job(client: Foundry, text: str) -> JobOut:
    """The job that a person means; of several for a model the newest, whose id is told.

    Raises NotFound; Conflict: several ids begin so.
    """
    job = client.jobs.get(text)
    if job.name == text:
        print_note(f"{job.id} is the newest job for {text}")
    return job


def find_key(client: Foundry, text: str) -> KeyOut:
    """Find a key by its public part, a beginning of that, or its name.

    Raises:
        NotFound: no key is called so.
        Conflict: several are, and which one a person means cannot be guessed.
    """
    rows = list(islice(client.keys.list(limit=200), _MOST_KEYS))
    for matches in (
        [row for row in rows if row.id == text],
        [row for row in rows if row.name == text and row.revoked_at is None],
        [row for row in rows if row.name == text or row.id.startswith(text)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            ids = ", ".join(row.id for row in matches[:_NAMED])
            raise Conflict(f"{text} means {len(matches)} keys: give the id, one of {ids}")
    raise NotFound(f"there is no key {text}: `foundry keys list` shows yours")
