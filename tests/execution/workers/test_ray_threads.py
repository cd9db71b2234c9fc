"""A Ray that answers, raises and is frozen."""

import asyncio
import threading

import pytest

from foundry.errors import ResourceExhausted, Unavailable
from foundry.execution.jobs.placement import Needs
from foundry.execution.workers import single
from foundry.execution.workers.ray_threads import call_ray, kill_actor


async def test_an_answer_and_an_error_are_handed_on() -> None:
    nodes: dict[str, int] = {}
    assert await call_ray(lambda: 7) == 7
    with pytest.raises(KeyError, match="gone"):
        await call_ray(lambda: nodes["gone"])

    def late() -> None:
        raise TimeoutError("Ray's own")

    with pytest.raises(TimeoutError, match="Ray's own"):
        await call_ray(late)


async def test_a_frozen_ray_costs_its_deadline_and_no_thread_that_anybody_waits_for() -> None:
    thawed = threading.Event()
    with pytest.raises(Unavailable, match=r"did not answer within 0\.01 s"):
        await call_ray(thawed.wait, deadline_s=0.01)
    (held,) = [each for each in threading.enumerate() if each.name == "ray-call"]
    assert held.daemon
    thawed.set()
    await asyncio.to_thread(held.join)


@pytest.mark.parametrize(
    ("resources", "needs", "kind"),
    [
        ({"CPU": 8, "GPU": 1}, Needs(accelerator=True), "GPU"),
        ({"CPU": 8, "GPU": 1}, Needs(), "CPU"),
        ({"CPU": 8}, Needs(accelerator=True), "CPU"),
    ],
)
async def test_a_worker_takes_what_the_cluster_has(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], needs: Needs, kind: str
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: resources)
    assert await single._choose_accelerator(needs) == kind


async def test_a_worker_that_fits_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 1})
    with pytest.raises(ResourceExhausted, match="no 2 CPU for a worker: add a node"):
        await single._choose_accelerator(Needs(cpus=2))


async def test_an_actor_is_killed_without_waiting_for_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    thawed, killed = threading.Event(), threading.Event()

    def kill(actor: str) -> None:
        thawed.wait()
        killed.set()
        raise ConnectionError("the control service restarts")

    monkeypatch.setattr("foundry.execution.workers.ray_threads.ray.kill", kill)
    kill_actor("member")
    assert not killed.is_set()
    thawed.set()
    assert await asyncio.to_thread(killed.wait, 10)
