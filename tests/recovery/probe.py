"""Whether a stack does new work, and for how long it did not."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import openai

from foundry.config import ClientSettings, Settings
from foundry.errors import FoundryError
from foundry.execution.jobs.domain import BUNDLED, JobState
from foundry.sdk import Foundry
from tests.recovery.faults import How, Part, inject, left_frozen

_POLL_S = 0.5
_REQUEST_S = 10.0


class NotRecovered(AssertionError):
    """The stack did no new work in time."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What one fault did.

    Attributes:
        seconds: from the signal until chat, control API and a new job had succeeded.
        lost_jobs: jobs of before or during the fault that did not succeed.
        duplicates: versions beyond the one that each job may register.
        orphans: processes that the fault froze and nobody removed.
        stuck: endpoints and jobs that rest in no final or running state.
    """

    part: str
    how: How
    seconds: float
    lost_jobs: int
    duplicates: int
    orphans: int
    stuck: int


@dataclass(frozen=True, slots=True)
class Site:
    """A running stack, seen as its users see it."""

    home: Path
    url: str
    api_key: str
    model: str

    def client(self) -> Foundry:
        client = ClientSettings.model_validate({"url": self.url, "api_key": self.api_key})
        return Foundry.from_settings(Settings(home=self.home, client=client))

    def chats(self) -> bool:
        """Whether the model answers now."""
        asked = openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.api_key, max_retries=0, timeout=_REQUEST_S
        )
        with asked as client, suppress(openai.APIError):
            answer = client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": "Hello"}], max_tokens=2
            )
            return answer.choices[0].finish_reason in {"stop", "length"}
        return False

    def submit(self, name: str) -> UUID | None:
        """A small job; None: it was not accepted."""
        with suppress(FoundryError), self.client() as client:
            return client.jobs.submit_import(name, BUNDLED, force=True).id
        return None

    def job_state(self, job_id: UUID) -> str | None:
        with suppress(FoundryError), self.client() as client:
            return str(client.jobs.get(job_id).state)
        return None


def wait_until(what: Callable[[], bool], within_s: float, doing: str) -> float:
    """Seconds until it held. Raises NotRecovered."""
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > within_s:
            raise NotRecovered(f"{doing} was not seen within {within_s:.0f} s")
        time.sleep(_POLL_S)
    return time.monotonic() - began


def measure_recovery(
    site: Site, part: Part, how: How, *, within_s: float, running: UUID | None = None
) -> Recovery:
    """Do the fault, wait until new work succeeds, and count what it left behind.

    Args:
        running: a job that trains while the fault happens.
    Raises:
        NotRecovered: new work did not succeed within `within_s`.
    """
    processes = part.find(site.home)
    assert processes, f"there is no process of {part.name}"
    hit = inject(processes, how)
    began = time.monotonic()
    wait_until(site.chats, within_s, f"an answer after {part.name}/{how}")
    name = f"after-{part.name.replace('_', '-')}-{how}"
    job_id: UUID | None = None

    def accepted() -> bool:
        nonlocal job_id
        job_id = site.submit(name)
        return job_id is not None

    wait_until(accepted, within_s, "a job that is accepted")
    assert job_id is not None
    new = job_id
    wait_until(
        lambda: site.job_state(new) == JobState.SUCCEEDED, within_s, "a new job that succeeds"
    )
    seconds = time.monotonic() - began
    lost = 0
    if running is not None:
        ended = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
        wait_until(lambda: site.job_state(running) in ended, 300, "the end of the job")
        lost = int(site.job_state(running) != JobState.SUCCEEDED)
    return Recovery(
        part.name, how, seconds, lost, _duplicates(site, name), len(left_frozen(hit)), _stuck(site)
    )


def _duplicates(site: Site, name: str) -> int:
    """Versions of a model that exactly one job made, beyond one."""
    with site.client() as client:
        return max(0, len(client.models.versions(name).data) - 1)


def _stuck(site: Site) -> int:
    """What rests where nothing moves it on: an endpoint that does not serve, a stalled job."""
    with site.client() as client:
        endpoints = [row for row in client.endpoints.list().data if row.desired == "running"]
        jobs = client.jobs.list(state=JobState.STALLED).data
        return sum(row.state != "RUNNING" for row in endpoints) + len(jobs)
