"""Ray's job submission behind a client that raises what Ray's raises."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from foundry.config import Settings
from foundry.errors import Unavailable
from foundry.execution.jobs.placement import Bundle, NodeResources
from foundry.supervisor import ray_jobs
from foundry.supervisor.ports import DriverObservation
from foundry.supervisor.ray_calls import RayCalls
from foundry.supervisor.ray_jobs import RayJobs

JOB = UUID(int=7)
NAME = f"fj-{JOB}-1"
UNKNOWN = RuntimeError(
    f"Request failed with status code 404: Job {NAME} does not exist. Please check."
)
BROKEN = RuntimeError("Request failed with status code 500: Traceback (most recent call last)")
TAKEN = RuntimeError(
    f"Request failed with status code 500: Job with submission_id {NAME} already exists."
)


@dataclass
class FakeClient:
    """Statuses in the order they are asked for; `faults` by call."""

    statuses: list[str] = field(default_factory=lambda: ["RUNNING"])
    faults: dict[str, Exception] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    hang: threading.Event | None = None
    exit_code: int | None = None
    logs: str = ""

    def submit_job(self, *, entrypoint: str, submission_id: str) -> str:
        self._call("submit")
        assert entrypoint.endswith(f"-m foundry.execution.workers.run --job {JOB}")
        return submission_id

    def stop_job(self, job_id: str) -> bool:
        self._call("stop")
        return True

    def get_job_info(self, job_id: str) -> Any:
        self._call("info")
        status = self.statuses[0] if len(self.statuses) == 1 else self.statuses.pop(0)
        return SimpleNamespace(status=status, message="said", driver_exit_code=self.exit_code)

    def get_job_logs(self, job_id: str) -> str:
        self._call("logs")
        return self.logs

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.hang is not None:
            self.hang.wait()
        if fault := self.faults.get(name):
            raise fault


@dataclass
class FakeState:
    actors: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)

    def list_actors(self) -> list[str]:
        return list(self.actors)

    def kill_actor(self, name: str) -> None:
        self.killed.append(name)
        if name not in self.actors:
            raise ValueError(f"Failed to look up actor with name '{name}'")
        self.actors.remove(name)

    def list_nodes(self) -> list[NodeResources]:
        return []


def jobs(
    client: FakeClient,
    state: FakeState | None = None,
    *,
    call_s: float = 20.0,
    **deadlines: float,
) -> RayJobs:
    calls = RayCalls(timeout_s=call_s)
    return RayJobs(lambda: client, state or FakeState(), calls, poll_s=0.0, **deadlines)


async def test_an_id_that_ray_has_is_not_submitted_twice() -> None:
    client = FakeClient(faults={"submit": TAKEN})
    await jobs(client).submit(NAME, JOB)
    assert client.calls == ["submit"]


async def test_one_client_serves_all_calls() -> None:
    made: list[FakeClient] = []

    def connect() -> FakeClient:
        made.append(FakeClient())
        return made[-1]

    ray = RayJobs(connect, FakeState(), RayCalls(timeout_s=20.0), poll_s=0.0)
    await ray.observe(NAME)
    await ray.submit(NAME, JOB)
    assert len(made) == 1


@pytest.mark.parametrize(
    "fault", [TimeoutError("read timed out"), KeyError("k"), BROKEN, ConnectionError("refused")]
)
async def test_what_ray_raises_may_be_tried_again(fault: Exception) -> None:
    client = FakeClient(faults={"submit": fault, "stop": fault, "info": fault})
    calls: list[Callable[[RayJobs], Any]] = [
        lambda ray: ray.submit(NAME, JOB),
        lambda ray: ray.observe(NAME),
        lambda ray: ray.end(NAME),
    ]
    for call in calls:
        with pytest.raises(Unavailable) as raised:
            await call(jobs(client))
        # The library's words are for the log only.
        assert type(raised.value.__cause__) is type(fault)
        assert str(fault) not in raised.value.message


async def test_a_driver_that_ray_no_longer_knows_has_ended() -> None:
    client = FakeClient(faults={"stop": UNKNOWN, "info": UNKNOWN})
    assert await jobs(client).end(NAME) == DriverObservation("absent", "Ray does not know it")


async def test_ending_waits_until_ray_shows_the_driver_ended() -> None:
    client = FakeClient(
        statuses=["RUNNING", "RUNNING", "STOPPED"], exit_code=-15, logs="one\ntwo\n"
    )
    seen = await jobs(client).end(NAME)
    assert seen == DriverObservation("ended", "said", -15, ("one", "two"))
    assert client.calls == ["stop", "info", "info", "info", "logs"]


async def test_actors_that_outlive_their_driver_are_killed_and_no_others() -> None:
    client = FakeClient(statuses=["FAILED"])
    state = FakeState([f"{NAME}/worker", f"{NAME}1/worker", "fj-other-1/worker"])
    await jobs(client, state).end(NAME)
    assert state.killed == [f"{NAME}/worker"]
    assert state.actors == [f"{NAME}1/worker", "fj-other-1/worker"]


async def test_a_driver_that_does_not_end_is_a_timeout() -> None:
    with pytest.raises(TimeoutError):
        await jobs(FakeClient(statuses=["RUNNING"]), end_deadline_s=0.05).end(NAME)


async def test_a_frozen_dashboard_costs_a_deadline_and_leaves_the_loop_free() -> None:
    client = FakeClient(hang=threading.Event())
    with pytest.raises(Unavailable, match=r"did not answer within 0\.05 s"):
        await jobs(client, call_s=0.05).observe(NAME)
    assert client.hang is not None
    client.hang.set()
    assert (await asyncio.wait_for(jobs(client).observe(NAME), 10)).status == "running"


async def test_the_last_lines_are_kept_and_cut() -> None:
    client = FakeClient(
        statuses=["FAILED"], exit_code=1, logs="\n".join(str(n) for n in range(50)) + "x" * 900
    )
    seen = await jobs(client).observe(NAME)
    assert len(seen.log_tail) == 20
    assert seen.log_tail[0] == "30"
    assert seen.log_tail[-1] == "x" * 500
    lost = FakeClient(statuses=["FAILED"], faults={"logs": BROKEN})
    assert (await jobs(lost).observe(NAME)).log_tail == ()


async def test_a_ray_that_names_no_node_yet_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart it has none for a moment, which must not read as a cluster without room."""
    nodes: list[NodeResources] = []
    monkeypatch.setattr(ray_jobs, "list_nodes", lambda: nodes)
    asked = RayJobs.from_settings(Settings())
    with pytest.raises(Unavailable, match="Ray names no node yet"):
        await asked.list_nodes()
    nodes.append(NodeResources(Bundle(2.0), Bundle(1.0)))
    assert await asked.list_nodes() == nodes
