"""The driver of one job, an entry point of Ray jobs.

`python -m foundry.execution.workers.run --job ID` is how the supervisor starts it.

It holds the lease and no accelerator; worker actors do the work. A driver that dies is
noticed by its silence and another attempt goes on from the last checkpoint.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from uuid import UUID

import ray
from ray.exceptions import RayActorError

from foundry.config import Settings, load_settings
from foundry.errors import EngineFailed, FoundryError, LeaseLost
from foundry.execution.jobs.service import JobLease
from foundry.execution.workers.attempt import Attempt
from foundry.execution.workers.diloco.job import train_fleet
from foundry.execution.workers.single import fine_tune, import_model
from foundry.infra.wiring import open_database

log = logging.getLogger(__name__)

_KINDS: Mapping[str, Callable[[Attempt], Awaitable[None]]] = {
    "sft": fine_tune,
    "diloco": train_fleet,
    "import": import_model,
}
_LOST = 3


async def see_through(attempt: Attempt) -> bool:
    """Whether the job succeeded or was cancelled; its row says how it ended.

    Raises:
        LeaseLost: another attempt has taken over.
    """
    try:
        await _KINDS[attempt.job.kind](attempt)
    except LeaseLost:
        raise
    except RayActorError as error:
        # Left without an end: the lease runs out and the next attempt resumes.
        await attempt.lease.log(f"the worker died: {error}\n")
        return False
    except FoundryError as error:
        await attempt.lease.fail(error.code, error.message)
        return False
    return True


async def execute(job_id: UUID, settings: Settings) -> bool:
    """Claim a job and see it through.

    Raises:
        NotFound, LeaseLost: there is nothing to do.
    """
    async with open_database(settings) as database:
        lease, job = await JobLease.claim(database, job_id)
        return await see_through(Attempt(settings, database, lease, job))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=UUID, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    settings = load_settings()
    ray.init(address="auto", log_to_driver=True, logging_level=logging.WARNING)
    try:
        succeeded = asyncio.run(execute(arguments.job, settings))
    except LeaseLost as error:
        log.warning("%s", error.message)
        sys.exit(_LOST)
    except EngineFailed as error:
        sys.exit(error.message)
    sys.exit(0 if succeeded else 1)


if __name__ == "__main__":
    main()
