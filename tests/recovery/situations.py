"""What goes on in a stack while a fault happens, and how that must end."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from uuid import UUID

from foundry.errors import FoundryError
from foundry.execution.jobs.domain import ENDED, JobState, Phase
from foundry.sdk import SftConfig
from foundry.serving.endpoints.schemas import EngineConfig, EngineResources
from tests.recovery.faults import Part
from tests.recovery.probe import Outcome, Site, wait_until

DATASET = "recovery-numbers"
_TRAINING = SftConfig(
    max_steps=8, batch_size=2, micro_batch_size=2, max_seq_len=128, checkpoint_every=2
)
# It leaves a processor to the job that is to succeed meanwhile.
_SMALL = EngineConfig(resources=EngineResources(cpu_cores=0.25))
_CLIENTS, _PAUSE_S = 2, 2.0
_BEGUN_S = 240.0
_ENDED_S = 300.0
_PUBLISH_ATTEMPTS = 3
_NO_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Scene:
    """What is going on.

    Attributes:
        end: waits until it has ended, and says what became of it.
    """

    end: Callable[[], Outcome]


Situation = Callable[[Site, Part, str], AbstractContextManager[Scene]]


@contextmanager
def at_rest(site: Site, part: Part, name: str) -> Iterator[Scene]:
    yield Scene(Outcome)


@contextmanager
def under_load(site: Site, part: Part, name: str) -> Iterator[Scene]:
    """A few clients that ask now and then: light, so that two cores have time for new work."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(_PAUSE_S):
            site.chats()

    threads = [threading.Thread(target=ask) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield Scene(Outcome)
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def during_training(site: Site, part: Part, name: str) -> Iterator[Scene]:
    """A job has made a few steps."""
    job_id = _submit_training(site, name)
    wait_until(lambda: _trains(site, job_id, part), _BEGUN_S, "a job that trains")
    yield Scene(lambda: _job_outcome(site, job_id, name, JobState.SUCCEEDED))


@contextmanager
def during_publish(site: Site, part: Part, name: str) -> Iterator[Scene]:
    """A job has trained and registers its adapter, which takes a second or two."""
    for attempt in range(_PUBLISH_ATTEMPTS):
        model = f"{name}-{attempt}"
        job_id = _submit_training(site, model)
        wait_until(
            partial(_publishes_or_ended, site, job_id),
            _BEGUN_S,
            "a job that publishes",
            pause_s=_NO_PAUSE,
        )
        if site.job_state(job_id) not in ENDED:
            break
    yield Scene(lambda: _job_outcome(site, job_id, model, JobState.SUCCEEDED))


@contextmanager
def during_cancel(site: Site, part: Part, name: str) -> Iterator[Scene]:
    """A job that trains was asked to stop and has not stopped yet."""
    job_id = _submit_training(site, name)
    wait_until(lambda: _trains(site, job_id, part), _BEGUN_S, "a job that trains")
    with site.client() as client:
        client.jobs.cancel(job_id)
    yield Scene(lambda: _job_outcome(site, job_id, name, JobState.CANCELLED))


@contextmanager
def during_deploy(site: Site, part: Part, name: str) -> Iterator[Scene]:
    """A second endpoint of the same base is starting its engine."""
    with site.client() as client:
        endpoint = client.endpoints.create(site.model, name=name, config=_SMALL, deploy=True).id
        wait_until(
            lambda: client.endpoints.get(endpoint).state in _DEPLOYING,
            _BEGUN_S,
            "an engine that starts",
        )
    try:
        yield Scene(lambda: _endpoint_outcome(site, endpoint))
    finally:
        with site.client() as client:
            client.endpoints.delete(endpoint)
        wait_until(lambda: _endpoint_is_gone(site, endpoint), _ENDED_S, "an endpoint that is gone")


SITUATIONS: Mapping[str, Situation] = {
    "rest": at_rest,
    "load": under_load,
    "training": during_training,
    "deploy": during_deploy,
    "publish": during_publish,
    "cancel": during_cancel,
}
_DEPLOYING = {"DEPLOYING", "VERIFYING"}


def _submit_training(site: Site, name: str) -> UUID:
    with site.client() as client:
        return client.jobs.submit_sft(name, site.model, DATASET, _TRAINING, force=True).id


def _trains(site: Site, job_id: UUID, part: Part) -> bool:
    job = site.find_job(job_id)
    step = job.progress.get("step", 0) if job is not None else 0
    there = bool(part.find(site.home)) or not part.needs_job
    return isinstance(step, int) and step >= 2 and there


def _publishes_or_ended(site: Site, job_id: UUID) -> bool:
    job = site.find_job(job_id)
    return job is not None and (job.phase == Phase.PUBLISH or job.state in ENDED)


def _job_outcome(site: Site, job_id: UUID, model: str, wanted: JobState) -> Outcome:
    """A job is lost if it ended otherwise than its user wants; it registers one version at most."""
    wait_until(lambda: site.job_state(job_id) in ENDED, _ENDED_S, f"the end of the job {model}")
    state = site.job_state(job_id)
    wanted_versions = int(state == JobState.SUCCEEDED)
    return Outcome(
        lost_jobs=int(state != wanted),
        duplicates=abs(site.count_versions(model) - wanted_versions),
    )


def _endpoint_outcome(site: Site, endpoint: UUID) -> Outcome:
    wait_until(lambda: _endpoint_runs(site, endpoint), _ENDED_S, "the second engine")
    return Outcome()


def _endpoint_runs(site: Site, endpoint: UUID) -> bool:
    with suppress(FoundryError), site.client() as client:
        return client.endpoints.get(endpoint).state == "RUNNING"
    return False


def _endpoint_is_gone(site: Site, endpoint: UUID) -> bool:
    with suppress(FoundryError), site.client() as client:
        return all(row.id != endpoint for row in client.endpoints.list().data)
    return False
