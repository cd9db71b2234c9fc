"""What runs on a stack: the endpoints that serve and the jobs that are not done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry.config import Settings
from foundry.errors import FoundryError

if TYPE_CHECKING:
    from foundry.execution.jobs.schemas import JobOut
    from foundry.serving.endpoints.schemas import EndpointOut

# Asked of a stack that may be half dead, while a user waits.
_ASK_S = 3.0
_MOST = 50


@dataclass(frozen=True, slots=True)
class RunningWork:
    """What a stack is doing.

    Attributes:
        endpoints: that are not at rest; the first 50.
        jobs: that have not ended, newest first; the first 50.
    """

    endpoints: list[EndpointOut]
    jobs: list[JobOut]


def read_running_work(settings: Settings, url: str) -> RunningWork | None:
    """What runs on a stack; None: nobody answers, or nobody whom this client's key may ask."""
    # The SDK loads every schema: only who asks pays for it.
    from foundry.execution.jobs.schemas import ACTIVE
    from foundry.sdk import Foundry
    from foundry.serving.endpoints.schemas import RESTING

    try:
        with Foundry(url=url, settings=settings, timeout_s=_ASK_S) as client:
            endpoints = client.endpoints.list(limit=_MOST).data
            return RunningWork(
                endpoints=[row for row in endpoints if row.state not in RESTING],
                jobs=list(client.jobs.list(state=",".join(sorted(ACTIVE)), limit=_MOST).data),
            )
    except FoundryError:
        return None
