"""Drivers as Ray jobs.

Ray's client blocks and knows no deadline, so its calls run in a `RayCalls` of their own, each with
a timeout on its socket: a frozen dashboard costs these calls and nothing else.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

import ray
from ray.job_submission import JobSubmissionClient
from ray.util import list_named_actors

from foundry.config import Settings
from foundry.errors import Unavailable
from foundry.execution.jobs.placement import NodeResources
from foundry.execution.workers.naming import ACTOR_NAMESPACE, is_actor_of
from foundry.execution.workers.nodes import list_nodes
from foundry.supervisor.ports import DriverObservation, DriverStatus
from foundry.supervisor.ray_calls import RayCalls

_SOCKET_TIMEOUT_S = (5.0, 20.0)
# Ray ends a driver with SIGTERM and kills it 3 s later; both are seen within this.
END_DEADLINE_S = 60.0
_POLL_S = 0.5
_TAIL_LINES = 20
_TAIL_LINE_CHARACTERS = 500

_STATUSES: dict[str, DriverStatus] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "STOPPED": "ended",
    "SUCCEEDED": "ended",
    "FAILED": "ended",
}


class JobClient(Protocol):
    """The calls of `JobSubmissionClient` that are used."""

    def submit_job(self, *, entrypoint: str, submission_id: str) -> str: ...

    def stop_job(self, job_id: str) -> bool: ...

    def get_job_info(self, job_id: str) -> Any: ...

    def get_job_logs(self, job_id: str) -> str: ...


class RayState(Protocol):
    """What is asked of the cluster itself."""

    def list_actors(self) -> list[str]:
        """Names of the living actors of jobs."""

    def kill_actor(self, name: str) -> None:
        """Kill an actor of a job. Raises ValueError: there is none of this name."""

    def list_nodes(self) -> list[NodeResources]: ...


class RayJobs:
    """Job submission over the dashboard; the client is made at first use.

    Args:
        connect: makes a client; raises ConnectionError when the dashboard is away.
    """

    def __init__(
        self,
        connect: Callable[[], JobClient],
        state: RayState,
        calls: RayCalls,
        *,
        end_deadline_s: float = END_DEADLINE_S,
        poll_s: float = _POLL_S,
    ) -> None:
        self._connect = connect
        self._state = state
        self._calls = calls
        self._end_deadline_s = end_deadline_s
        self._poll_s = poll_s
        self._client: JobClient | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "RayJobs":
        url = f"http://{settings.ray.dashboard_host}:{settings.ray.dashboard_port}"
        return cls(lambda: _TimedClient(url), _ClusterState(), RayCalls("ray-jobs"))

    async def submit(self, submission_id: str, job_id: UUID) -> None:
        entrypoint = f"{sys.executable} -m foundry.execution.workers.run --job {job_id}"

        def send() -> None:
            try:
                self._connected().submit_job(entrypoint=entrypoint, submission_id=submission_id)
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise

        await self._calls.run(send)

    async def observe(self, submission_id: str) -> DriverObservation:
        def ask() -> DriverObservation:
            client = self._connected()
            try:
                info = client.get_job_info(submission_id)
            except RuntimeError as error:
                if _is_unknown(error):
                    return DriverObservation("absent", "Ray does not know it")
                raise
            status = _STATUSES[str(getattr(info.status, "value", info.status))]
            if status != "ended":
                return DriverObservation(status, info.message or "")
            tail = _tail_of(client, submission_id)
            return DriverObservation(status, info.message or "", info.driver_exit_code, tail)

        return await self._calls.run(ask)

    async def end(self, submission_id: str) -> DriverObservation:
        """Stop a driver, see it ended and kill its actors.

        Raises:
            TimeoutError: it has not ended; nothing may take its place yet.
        """
        async with asyncio.timeout(self._end_deadline_s):
            await self._calls.run(lambda: self._stop(submission_id))
            while True:
                seen = await self.observe(submission_id)
                # Ray ends the actors of an ended driver; one that hangs takes a kill.
                if seen.gone:
                    killed = await self._calls.run(lambda: self._kill_actors(submission_id))
                    if not killed:
                        return seen
                await asyncio.sleep(self._poll_s)

    async def list_nodes(self) -> list[NodeResources]:
        return await self._calls.run(self._state.list_nodes)

    def _stop(self, submission_id: str) -> None:
        try:
            self._connected().stop_job(submission_id)
        except RuntimeError as error:
            if not _is_unknown(error):
                raise

    def _kill_actors(self, submission_id: str) -> int:
        """Kill what an ended driver has left. Returns how many there were."""
        names = [name for name in self._state.list_actors() if is_actor_of(name, submission_id)]
        for name in names:
            try:
                self._state.kill_actor(name)
            except ValueError:
                # It ended by itself meanwhile.
                continue
        return len(names)

    def _connected(self) -> JobClient:
        if self._client is None:
            self._client = self._connect()
        return self._client


class _TimedClient(JobSubmissionClient):  # type: ignore[misc]
    """Ray's client asks without a timeout; a frozen dashboard would hold its thread for ever."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        options.setdefault("timeout", _SOCKET_TIMEOUT_S)
        return super()._do_request(method, endpoint, **options)


class _ClusterState:
    """The cluster that this process is connected to."""

    def list_actors(self) -> list[str]:
        found = list_named_actors(all_namespaces=True)
        return [actor["name"] for actor in found if actor["namespace"] == ACTOR_NAMESPACE]

    def kill_actor(self, name: str) -> None:
        ray.kill(ray.get_actor(name, namespace=ACTOR_NAMESPACE))

    def list_nodes(self) -> list[NodeResources]:
        nodes = list_nodes()
        if not nodes:
            raise Unavailable("Ray names no node yet")
        return nodes


def _is_unknown(error: RuntimeError) -> bool:
    """Ray tells an unknown job by the text of its error only."""
    return "status code 404" in str(error)


def _tail_of(client: JobClient, submission_id: str) -> tuple[str, ...]:
    """The last lines of a driver's output; none if its node is gone."""
    try:
        lines = client.get_job_logs(submission_id).splitlines()[-_TAIL_LINES:]
    except (RuntimeError, OSError):
        return ()
    return tuple(line[-_TAIL_LINE_CHARACTERS:] for line in lines)
