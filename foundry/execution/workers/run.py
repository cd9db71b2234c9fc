"""The driver of one job, an entry point of Ray jobs.

`python -m foundry.execution.workers.run --job ID` is how the supervisor starts it.

It holds the lease and no accelerator; worker actors do the work. Every end is recorded with its
reason: by the driver, or, when the driver is dead, by the supervisor from what Ray knows.
"""

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from uuid import UUID

import ray

from foundry.config import Settings, load_settings, ray_submission_id
from foundry.errors import DatabaseUnavailable, LeaseLost
from foundry.execution.jobs.leases import JobLease
from foundry.execution.jobs.service import Job
from foundry.execution.workers.attempt import Attempt, run_with_heartbeat, write_until_accepted
from foundry.execution.workers.diloco.job import train_fleet
from foundry.execution.workers.failures import classify, describe_trace
from foundry.execution.workers.output import Transcript, capture_output, store_output
from foundry.execution.workers.single import fine_tune, import_model
from foundry.infra.database import Database
from foundry.infra.logs import configure_logging
from foundry.infra.wiring import open_database

log = logging.getLogger(__name__)

_KINDS: Mapping[str, Callable[[Attempt], Awaitable[None]]] = {
    "sft": fine_tune,
    "diloco": train_fleet,
    "import": import_model,
}
_LOST = 3
# A frozen PostgreSQL is replaced within half a minute, and recovers for as long.
_CLAIM_S, _CLAIM_AGAIN_S = 60.0, 1.0
_FORWARDED_S = 1.0
_LAST_WORDS_BYTES = 64 * 1024


async def run_attempt(attempt: Attempt, transcript: Transcript | None = None) -> bool:
    """Whether the job succeeded or was cancelled; its row says how it ended.

    Args:
        transcript: of what was printed, for the error.

    Raises:
        LeaseLost: another attempt has taken over.
    """
    try:
        await run_with_heartbeat(attempt, _KINDS[attempt.job.kind](attempt))
    except LeaseLost:
        raise
    except Exception as error:  # noqa: BLE001 - every end is recorded
        await _record(attempt, error, transcript)
        return False
    return True


async def _record(attempt: Attempt, error: Exception, transcript: Transcript | None) -> None:
    failure = classify(error)
    last_lines: list[str] = []
    if transcript is not None:
        # Ray forwards a worker's last words after its death.
        await asyncio.sleep(_FORWARDED_S)
        last_lines = transcript.last_lines
    await write_until_accepted(lambda: attempt.say(describe_trace(error)))
    document = failure.document(attempt.job.attempt, last_lines)
    lease = attempt.lease
    await write_until_accepted(
        lambda: lease.give_up(document) if failure.retryable else lease.fail(document)
    )


async def claim_patiently(
    database: Database, job_id: UUID, submission_id: str | None, *, patience_s: float = _CLAIM_S
) -> tuple[JobLease, Job]:
    """Claim a job, also when PostgreSQL comes back only a moment later.

    A driver that gave up would cost the job an attempt, and its user the wait for the next.

    Raises:
        DatabaseUnavailable: it did not come back in time.
        NotFound, LeaseLost: there is nothing to do.
    """
    until = time.monotonic() + patience_s
    while True:
        try:
            return await JobLease.claim(database, job_id, submission_id)
        except DatabaseUnavailable:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(_CLAIM_AGAIN_S)


async def run_job(job_id: UUID, settings: Settings) -> bool:
    """Claim a job and see it through.

    Raises:
        NotFound, LeaseLost: there is nothing to do.
    """
    transcript = Transcript()
    async with open_database(settings) as database:
        lease, job = await claim_patiently(database, job_id, ray_submission_id())
        with capture_output(transcript):
            storing = asyncio.ensure_future(store_output(transcript, lease.log))
            try:
                return await run_attempt(Attempt(settings, database, lease, job), transcript)
            finally:
                storing.cancel()
                await asyncio.gather(storing, return_exceptions=True)
                await _store_last_words(lease, transcript)


async def _store_last_words(lease: JobLease, transcript: Transcript) -> None:
    try:
        await lease.log(transcript.take(_LAST_WORDS_BYTES))
    except (LeaseLost, DatabaseUnavailable):
        log.warning("the last lines of the output are in Ray's log only")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", type=UUID, required=True)
    arguments = parser.parse_args()
    configure_logging()
    settings = load_settings()
    ray.init(address="auto", log_to_driver=True, logging_level=logging.WARNING)
    try:
        succeeded = asyncio.run(run_job(arguments.job, settings))
    except LeaseLost as error:
        log.warning("%s", error.message)
        sys.exit(_LOST)
    sys.exit(0 if succeeded else 1)


if __name__ == "__main__":
    main()
