"""What is removed from a node, in a task that runs on it."""

import time
from collections.abc import Collection
from pathlib import Path
from uuid import UUID

from foundry.execution.workers.directories import remove_work_directories
from foundry.infra.scratch import remove_abandoned_scratch
from foundry.infra.weight_eviction import evict_weights


def clean_node(home: Path, cache: Path, active: Collection[UUID], limit_bytes: int) -> list[str]:
    """Remove what ended jobs, killed processes and a full cache leave on a node. Returns the names.

    Args:
        active: jobs that have not ended.
        limit_bytes: of the cache.
    """
    now = time.time()
    return [
        *remove_work_directories(home, active, now),
        *remove_abandoned_scratch(now),
        *evict_weights(cache, limit_bytes, now),
    ]
