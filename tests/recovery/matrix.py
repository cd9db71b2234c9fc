"""All faults on one stack of their own: plain start first, then one fault after the other."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import UUID

from foundry.execution.jobs.domain import BUNDLED, JobState
from foundry.infra.embedded import stack
from foundry.sdk import Foundry, SftConfig
from tests.bench.stack import fresh_home
from tests.recovery.faults import PARTS, How, Part
from tests.recovery.probe import NotRecovered, Recovery, Site, measure_recovery, wait_until

BASE = "smollm2-135m"
_DATASET = "numbers"
_TRAINING = SftConfig(
    max_steps=12, batch_size=2, micro_batch_size=2, max_seq_len=128, checkpoint_every=2
)


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def running_site(rows: Path) -> Iterator[tuple[Site, float]]:
    """A stack with a base that answers and a small dataset, and its engine's plain start, s."""
    with fresh_home() as settings:
        stack.up(settings, say)
        found = json.loads((settings.home / "credentials.json").read_text())
        site = Site(settings.home, found["url"], found["api_key"], BASE)
        rows.write_text(
            "".join(
                json.dumps({"prompt": f"What follows {n}?", "completion": str(n + 1)}) + "\n"
                for n in range(40)
            )
        )
        with site.client() as client:
            job = client.jobs.submit_import(BASE, BUNDLED)
            assert client.jobs.wait(job.id, timeout_s=300).state == JobState.SUCCEEDED
            client.datasets.add(_DATASET, rows)
            seconds = _deploy(client, site)
        yield site, seconds


def _deploy(client: Foundry, site: Site) -> float:
    began = time.monotonic()
    endpoint = client.endpoints.create(BASE)
    client.endpoints.deploy(endpoint.id)
    client.endpoints.wait(endpoint.id, timeout_s=600)
    wait_until(site.chats, 60, "the first answer")
    return time.monotonic() - began


def run_matrix(
    site: Site, engine_start_s: float, hows: Sequence[How], parts: Sequence[Part] = PARTS
) -> tuple[list[Recovery], list[str]]:
    """Each part by each signal. Returns what was measured, and the faults not recovered from."""
    done: list[Recovery] = []
    failed: list[str] = []
    for part in parts:
        for how in hows:
            limit = 4 * engine_start_s + 120 if part.restarts_engine else 240.0
            say(f"{part.name}/{how}")
            try:
                running = _begin_training(site, part, how) if part.needs_job else None
                found = measure_recovery(site, part, how, within_s=limit, running=running)
            except NotRecovered as error:
                say(f"{part.name}/{how}: {error}")
                failed.append(f"{part.name}/{how}: {error}")
                if not _repaired(site):
                    return done, failed
            else:
                say(f"{part.name}/{how}: {found.seconds:.1f} s")
                done.append(found)
    return done, failed


def _begin_training(site: Site, part: Part, how: How) -> UUID:
    """A job whose process is there and has made a few steps."""
    with site.client() as client:
        job = client.jobs.submit_sft(
            f"during-{part.name}-{how}", BASE, _DATASET, _TRAINING, force=True
        )

        def trains() -> bool:
            step = client.jobs.get(job.id).progress.get("step", 0)
            return isinstance(step, int) and step >= 2 and bool(part.find(site.home))

        wait_until(trains, 240, "a job that trains")
    return job.id


def _repaired(site: Site) -> bool:
    """After a fault that was not recovered from, the rest is judged only if chat answers."""
    with contextlib.suppress(NotRecovered):
        wait_until(site.chats, 240, "an answer before the next fault")
        return True
    return False
