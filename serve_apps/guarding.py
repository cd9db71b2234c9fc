"""The supervisor's share in watching the guard, which watches the supervisor."""

import asyncio

from foundry.config import Settings
from foundry.infra.embedded.guard.lifecycle import require_guard
from foundry.supervisor.loop import Chore

# It is ended and started again by every `foundry up`, which takes a minute: less than the three
# turns after which its absence is told.
_PERIOD_S = 30.0


def guarding_chores(settings: Settings) -> list[Chore]:
    """None on a cluster that `foundry up` has not started: nobody guards it."""
    if settings.stack_id is None or settings.ray.address is not None:
        return []

    async def look_after_guard() -> None:
        await asyncio.to_thread(require_guard, settings.home)

    return [Chore("guard", look_after_guard, _PERIOD_S)]
