"""Faults one after the other on one stack: which part, by which signal, in which situation."""

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from foundry.config import Settings
from foundry.execution.jobs.domain import BUNDLED, JobState
from foundry.infra.embedded import stack
from tests.bench.stack import fresh_home
from tests.recovery.faults import PARTS, How, Part
from tests.recovery.probe import (
    NotRecovered,
    Recovery,
    Site,
    measure_recovery,
    succeed_at_new_work,
    wait_until,
)
from tests.recovery.situations import DATASET, SITUATIONS

BASE = "smollm2-135m"
PLAIN_LIMIT_S = 240.0


@dataclass(frozen=True, slots=True)
class PlainStarts:
    """Seconds that starts take which nothing hinders; a recovery is compared with them.

    Both end as a recovery does: the model answers and a new job, run beside, has succeeded.

    Attributes:
        engine: from a deploy, its files and caches being there.
        stack: from `foundry up` on a stopped home.
    """

    engine: float
    stack: float

    def of(self, part: Part) -> float | None:
        """Of what the part takes along; None: it takes nothing along."""
        return {"nothing": None, "engine": self.engine, "ray": self.stack}[part.takes_along]


@dataclass(frozen=True, slots=True)
class Case:
    """One fault. `situation` is a key of `SITUATIONS`."""

    part: Part
    how: How
    situation: str

    @property
    def name(self) -> str:
        return f"{self.part.name}/{self.how}/{self.situation}"


def list_cases(situations: Iterable[str]) -> list[Case]:
    """Every part by every signal in those situations, as far as the part is there in them."""
    hows: tuple[How, ...] = ("kill", "stop")
    return [
        Case(part, how, situation)
        for part in PARTS
        for situation in situations
        for how in hows
        if part.is_there_in(situation)
    ]


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def running_site(folder: Path) -> Iterator[tuple[Site, PlainStarts]]:
    """A stack with a base that answers and a small dataset."""
    with fresh_home() as settings:
        stack.up(settings, say)
        found = json.loads((settings.home / "credentials.json").read_text())
        site = Site(settings.home, found["url"], found["api_key"], BASE)
        with site.client() as client:
            job = client.jobs.submit_import(BASE, BUNDLED)
            assert client.jobs.wait(job.id, timeout_s=300).state == JobState.SUCCEEDED
            endpoint = client.endpoints.create(BASE).id
        _deploy(site, endpoint)
        starts = PlainStarts(_time_redeploy(site, endpoint), _time_stack(settings, site))
        say(f"a plain start of the engine {starts.engine:.1f} s, of all {starts.stack:.1f} s")
        add_dataset(site, folder)
        yield site, starts


def add_dataset(site: Site, folder: Path) -> None:
    """The dataset that the trainings of the situations use."""
    rows = folder / "numbers.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"prompt": f"What follows {n}?", "completion": str(n + 1)}) + "\n"
            for n in range(40)
        )
    )
    with site.client() as client:
        client.datasets.add(DATASET, rows)


def _deploy(site: Site, endpoint: UUID) -> None:
    with site.client() as client:
        client.endpoints.deploy(endpoint)
        client.endpoints.wait(endpoint, timeout_s=600)
    wait_until(site.chats, 60, "the first answer")


def _time_redeploy(site: Site, endpoint: UUID) -> float:
    with site.client() as client:
        client.endpoints.stop(endpoint)
        wait_until(
            lambda: client.endpoints.get(endpoint).state == "STOPPED", 180, "a stopped engine"
        )
        began = time.monotonic()
        client.endpoints.deploy(endpoint)
    succeed_at_new_work(site, "beside-a-plain-start", 600)
    return time.monotonic() - began


def _time_stack(settings: Settings, site: Site) -> float:
    stack.down(settings.home, say)
    began = time.monotonic()
    stack.up(settings, say)
    succeed_at_new_work(site, "beside-a-plain-up", 600)
    return time.monotonic() - began


def run_case(site: Site, case: Case, starts: PlainStarts) -> Recovery:
    """Raises NotRecovered."""
    plain = starts.of(case.part)
    limit = PLAIN_LIMIT_S if plain is None else 4 * plain + 120
    name = f"{case.situation}-{case.part.name.replace('_', '-')}-{case.how}"
    with SITUATIONS[case.situation](site, case.part, name) as scene:
        return measure_recovery(
            site, case.part, case.how, within_s=limit, situation=case.situation, end=scene.end
        )


def run_matrix(
    site: Site, starts: PlainStarts, cases: Iterable[Case]
) -> tuple[list[Recovery], list[str]]:
    """Returns what was measured, and the faults that were not recovered from."""
    done: list[Recovery] = []
    failed: list[str] = []
    for case in cases:
        say(case.name)
        try:
            found = run_case(site, case, starts)
        except NotRecovered as error:
            say(f"{case.name}: {error}")
            failed.append(f"{case.name}: {error}")
            if not _recovers_late(site):
                return done, failed
        else:
            say(f"{case.name}: {found.seconds:.1f} s{'' if found.is_clean else f', {found}'}")
            done.append(found)
    return done, failed


def _recovers_late(site: Site) -> bool:
    """After a fault that was not recovered from, the rest is judged only if chat answers."""
    with contextlib.suppress(NotRecovered):
        wait_until(site.chats, PLAIN_LIMIT_S, "an answer before the next fault")
        return True
    return False
