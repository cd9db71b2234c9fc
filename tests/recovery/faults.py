"""The faults that a stack must survive: which process, and what is done to it."""

import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from foundry.infra.embedded import postgres
from foundry.infra.embedded.processes import members
from foundry.infra.embedded.state import stack_id

How = Literal["kill", "stop"]
SIGNALS: dict[How, signal.Signals] = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass(frozen=True, slots=True)
class Part:
    """A kind of process of a stack.

    Attributes:
        needs_job: it lives only while a job trains.
        takes_along: what is lost with it and must start again, which dominates the recovery.
    """

    name: str
    find: Callable[[Path], list[psutil.Process]]
    needs_job: bool = False
    takes_along: Literal["nothing", "engine", "ray"] = "nothing"

    def is_there_in(self, situation: str) -> bool:
        """Whether there is such a process in that situation, and a reason to try it."""
        if self.needs_job:
            return situation in {"training", "publish", "cancel"}
        return situation != "training"


def _matching(*words: str) -> Callable[[Path], list[psutil.Process]]:
    """Processes of the stack whose command line has one of `words`."""

    def find(home: Path) -> list[psutil.Process]:
        found = []
        for process in members(stack_id(home)):
            with suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if any(word in line for word in words):
                    found.append(process)
        return found

    return find


def _postmaster(home: Path) -> list[psutil.Process]:
    pid = postgres.running_pid(home)
    return [psutil.Process(pid)] if pid is not None else []


PARTS: Sequence[Part] = (
    Part("driver", _matching("foundry.execution.workers.run"), needs_job=True),
    Part("worker", _matching("ray::SftWorker"), needs_job=True),
    Part("supervisor", _matching("ray::SupervisorActor")),
    Part("gateway", _matching("ray::ServeReplica:gateway")),
    Part("controller", _matching("ray::ServeController")),
    Part("engine", _matching("VLLM::Worker", "VLLM::EngineCore"), takes_along="engine"),
    Part("postgres", _postmaster),
    Part("ray_head", _matching("gcs_server"), takes_along="ray"),
    # A raylet ends with its agent.
    Part(
        "dashboard_agent",
        _matching("dashboard/agent.py", "ray::DashboardAgent"),
        takes_along="ray",
    ),
)


def find_part(name: str) -> Part:
    return next(part for part in PARTS if part.name == name)


def inject(processes: Iterable[psutil.Process], how: How) -> list[psutil.Process]:
    """Send the signal to each process that still is there. Returns those that got it."""
    hit = []
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(SIGNALS[how])
            hit.append(process)
    return hit


def left_frozen(hit: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Of the processes that were hit, those that still are there and stopped: orphans."""
    found = []
    for process in hit:
        with suppress(psutil.Error):
            if process.is_running() and process.status() == psutil.STATUS_STOPPED:
                found.append(process)
    return found
