"""Whether a stack does new work, and for how long it did not."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import openai

from foundry.config import ClientSettings, Settings
from foundry.errors import FoundryError
from foundry.execution.jobs.domain import BUNDLED, JobState
from foundry.execution.jobs.schemas import JobOut
from foundry.sdk import Foundry
from tests.recovery.faults import How, Part, find_part, inject, left_frozen

_POLL_S = 0.5
_REQUEST_S = 10.0
_BACK_S = 120.0


class NotRecovered(AssertionError):
    """The stack did no new work in time."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the work that a fault met.

    Attributes:
        lost_jobs: jobs that did not end as their user wanted.
        duplicates: versions that a job registered beyond the one that it may.
    """

    lost_jobs: int = 0
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Recovery:
    """What one fault did.

    Attributes:
        answered_s: from the signal until the model first answered.
        seconds: from the signal until a new job had succeeded and the model answered again.
        lost_jobs, duplicates: of the work that the fault met and of the new job.
        orphans: processes that the fault froze and nobody removed.
        lost_engines: engines that were healthy and restarted although the fault was elsewhere.
        stuck: endpoints and jobs that are in no final or running state two minutes later, and a
            part that did not come back.
    """

    part: str
    how: How
    situation: str
    answered_s: float
    seconds: float
    lost_jobs: int
    duplicates: int
    orphans: int
    lost_engines: int
    stuck: int

    @property
    def name(self) -> str:
        return f"{self.part}_{self.how}_{self.situation}"

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, done twice or left behind."""
        wrong = (self.lost_jobs, self.duplicates, self.orphans, self.lost_engines, self.stuck)
        return not any(wrong)


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

    def submit_import(self, name: str) -> UUID | None:
        """A small job; None: it was not accepted."""
        with suppress(FoundryError), self.client() as client:
            return client.jobs.submit_import(name, BUNDLED, force=True).id
        return None

    def find_job(self, job_id: UUID) -> JobOut | None:
        """None: nobody could tell."""
        with suppress(FoundryError), self.client() as client:
            return client.jobs.get(job_id)
        return None

    def job_state(self, job_id: UUID) -> str | None:
        job = self.find_job(job_id)
        return None if job is None else job.state

    def count_versions(self, model: str) -> int:
        with self.client() as client:
            if all(row.name != model for row in client.models.list(prefix=model).data):
                return 0
            return len(client.models.versions(model).data)

    def count_stuck(self) -> int:
        """What rests where nothing moves it on: an endpoint that does not serve, a stalled job."""
        with self.client() as client:
            endpoints = [row for row in client.endpoints.list().data if row.desired == "running"]
            jobs = client.jobs.list(state=JobState.STALLED).data
            return sum(row.state != "RUNNING" for row in endpoints) + len(jobs)


def wait_until(
    what: Callable[[], bool], within_s: float, doing: str, *, pause_s: float = _POLL_S
) -> float:
    """Seconds until it held. Raises NotRecovered."""
    began = time.monotonic()
    while not what():
        if time.monotonic() - began > within_s:
            raise NotRecovered(f"{doing} was not seen within {within_s:.0f} s")
        time.sleep(pause_s)
    return time.monotonic() - began


def measure_recovery(
    site: Site,
    part: Part,
    how: How,
    *,
    within_s: float,
    situation: str = "rest",
    end: Callable[[], Outcome] = Outcome,
) -> Recovery:
    """Do the fault, wait until new work succeeds, and count what it left behind.

    Args:
        end: waits for the end of the work that the fault meets.
    Raises:
        NotRecovered: new work did not succeed within `within_s`.
    """
    processes = part.find(site.home)
    assert processes or part.needs_job, f"there is no process of {part.name}"
    engines = {process.pid for process in find_part("engine").find(site.home)}
    hit = inject(processes, how)
    began = time.monotonic()
    name = f"after-{part.name.replace('_', '-')}-{how}-{situation}"
    answered_s = succeed_at_new_work(site, name, within_s)
    seconds = time.monotonic() - began
    came_back = _comes_back(site, part, {process.pid for process in hit})
    outcome = end()
    engines -= {process.pid for process in find_part("engine").find(site.home)}
    return Recovery(
        part=part.name,
        how=how,
        situation=situation,
        answered_s=answered_s,
        seconds=seconds,
        lost_jobs=outcome.lost_jobs,
        duplicates=outcome.duplicates + abs(site.count_versions(name) - 1),
        orphans=len(left_frozen(hit)),
        lost_engines=len(engines) if part.takes_along == "nothing" else 0,
        stuck=_wait_for_rest(site) + int(not came_back),
    )


def succeed_at_new_work(site: Site, name: str, within_s: float) -> float:
    """Ask the model and run a new job side by side, as users come, until both have succeeded.

    Returns the seconds until the model first answered. Raises NotRecovered.
    """
    with ThreadPoolExecutor(1) as beside:
        job = beside.submit(_succeed_at_new_job, site, name, within_s)
        answered_s = wait_until(site.chats, within_s, f"an answer ({name})")
        job.result()
    # The first answer may still have come from what was about to end.
    wait_until(site.chats, within_s, f"a second answer ({name})")
    return answered_s


def _succeed_at_new_job(site: Site, name: str, within_s: float) -> None:
    job_id: UUID | None = None

    def accepted() -> bool:
        nonlocal job_id
        job_id = site.submit_import(name)
        return job_id is not None

    wait_until(accepted, within_s, "a job that is accepted")
    assert job_id is not None
    new = job_id
    wait_until(
        lambda: site.job_state(new) == JobState.SUCCEEDED, within_s, "a new job that succeeds"
    )


def _wait_for_rest(site: Site) -> int:
    """How much is stuck once what moves had its time to arrive."""
    with suppress(NotRecovered):
        wait_until(lambda: site.count_stuck() == 0, _BACK_S, "a stack at rest")
    return site.count_stuck()


def _comes_back(site: Site, part: Part, hit: set[int]) -> bool:
    """Whether the part is there again, as a process that was not hit; the next fault needs it."""
    if part.needs_job:
        return True
    with suppress(NotRecovered):
        wait_until(
            lambda: any(process.pid not in hit for process in part.find(site.home)),
            _BACK_S,
            f"{part.name} as a new process",
        )
        return True
    return False
