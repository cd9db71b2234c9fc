"""Drivers as Ray jobs."""

import asyncio
import sys
from uuid import UUID

from ray.job_submission import JobSubmissionClient

from foundry.config import Settings


class RayJobs:
    """Job submission over the dashboard; the client is made at first use."""

    def __init__(self, settings: Settings) -> None:
        self._url = f"http://{settings.ray.dashboard_host}:{settings.ray.dashboard_port}"
        self._client: JobSubmissionClient | None = None

    async def submit(self, submission_id: str, job_id: UUID) -> None:
        entrypoint = f"{sys.executable} -m foundry.execution.workers.run --job {job_id}"

        def send() -> None:
            try:
                self._connected().submit_job(entrypoint=entrypoint, submission_id=submission_id)
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise

        await asyncio.to_thread(send)

    async def stop(self, submission_id: str) -> None:
        await asyncio.to_thread(lambda: self._connected().stop_job(submission_id))

    def _connected(self) -> JobSubmissionClient:
        if self._client is None:
            self._client = JobSubmissionClient(self._url)
        return self._client
