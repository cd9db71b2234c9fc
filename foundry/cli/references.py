"""What a person typed for a job, an endpoint, a key or a recommendation → the row.

Every argument that names a row takes its id, a beginning of the id that no other has, and its name;
for jobs and recommendations also `last`. A name may belong to several jobs: the newest is meant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar
from uuid import UUID

from foundry.cli.output.console import print_note
from foundry.errors import Conflict, NotFound

if TYPE_CHECKING:
    from foundry.execution.jobs.schemas import JobOut
    from foundry.governance.identity.schemas import KeyOut
    from foundry.sdk import Foundry
    from foundry.serving.endpoints.schemas import EndpointOut
    from foundry.serving.recommendations.schemas import RecommendationOut

LAST = "last"
_SHORT_ID = re.compile(r"[0-9a-f]{2,7}")
# So many of an ambiguous beginning are named.
_NAMED = 5
# A tenant has tens of keys; these are looked through for a name.
_MOST_KEYS = 1000


class _Row(Protocol):
    @property
    def id(self) -> UUID: ...


Row = TypeVar("Row", bound=_Row)


def find_job(client: Foundry, text: str) -> JobOut:
    """The job that a person means; of several for a model the newest.

    Raises NotFound; Conflict: several ids begin so.
    """
    if (job_id := _parse_id(text)) is not None:
        return client.jobs.get(job_id)
    hint = "`foundry jobs list` shows yours"
    if text == LAST:
        return _pick_newest(client.jobs.list(limit=1).data, "there are no jobs yet")
    rows = client.jobs.list(ref=text, limit=_NAMED + 1).data
    named = [row for row in rows if row.name == text]
    if len(named) > 1:
        print_note(f"{named[0].id} is the newest job for {text}")
    return named[0] if named else _pick_only(rows, text, f"there is no job {text}: {hint}")


def find_endpoint(client: Foundry, text: str) -> EndpointOut:
    """The endpoint that a person means.

    Raises NotFound; Conflict: several ids begin so.
    """
    if (endpoint_id := _parse_id(text)) is not None:
        return client.endpoints.get(endpoint_id)
    rows = client.endpoints.list(ref=text, limit=_NAMED + 1).data
    named = [row for row in rows if row.name == text]
    missing = f"there is no endpoint {text}: `foundry endpoints list` shows yours"
    return named[0] if named else _pick_only(rows, text, missing)


def find_recommendation(client: Foundry, text: str) -> RecommendationOut:
    """The newest about a model, if `text` is one. Raises NotFound; Conflict: several begin so."""
    if (recommendation_id := _parse_id(text)) is not None:
        return client.budsim.recommendation(recommendation_id)
    if text == LAST:
        rows = client.budsim.recommendations(limit=1).data
        return _pick_newest(rows, "there are no recommendations yet: foundry budsim recommend")
    rows = client.budsim.recommendations(ref=text, limit=_NAMED + 1).data
    about = [row for row in rows if row.model == text]
    missing = f"there is no recommendation {text}: `foundry budsim list` shows yours"
    return about[0] if about else _pick_only(rows, text, missing)


def find_key(client: Foundry, text: str) -> KeyOut:
    """By its public part, a beginning of that, or its name.

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


def _parse_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _pick_newest(rows: Sequence[Row], missing: str) -> Row:
    if not rows:
        raise NotFound(missing)
    return rows[0]


def _pick_only(rows: Sequence[Row], text: str, missing: str) -> Row:
    if not rows and _SHORT_ID.fullmatch(text):
        raise NotFound(f"{missing}; the beginning of an id takes 8 characters")
    if not rows:
        raise NotFound(missing)
    if len(rows) > 1:
        ids = ", ".join(str(row.id) for row in rows[:_NAMED])
        raise Conflict(f"several ids begin with {text}: give more of it, for example {ids}")
    return rows[0]
