"""What `foundry up` would do to a stack, told before anything is touched.

changed code or settings of what runs ──> restarted: that interrupts work, so a user agrees first
a part is missing or silent           ──> started: nobody notices
neither                               ──> nothing: everything is running already
"""

from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from foundry.config import LOOPBACK, Settings
from foundry.errors import InvalidRequest
from foundry.infra.embedded import ray
from foundry.infra.embedded.health import HEALTH_PATHS, PartStatus, inspect_parts
from foundry.infra.embedded.ports import is_listening
from foundry.infra.embedded.processes import find_process
from foundry.infra.embedded.stack_digest import describe_changes, digest_stack
from foundry.infra.embedded.state import StackState, load_state

# PostgreSQL runs no code of ours, and a guard serves nobody.
_ON_RAY = ("supervisor", *HEALTH_PATHS)
_LOCAL_COST = (
    "requests in flight end with an error, engines start again (minutes), "
    "jobs go on from their last checkpoint"
)
_UNKNOWN = "what the applications of that cluster were started with is not known here"
_EXTERNAL_COST = "requests in flight end first; engines and jobs go on"


@dataclass(frozen=True, slots=True)
class Plan:
    """What an `up` would do.

    Attributes:
        changes: why running parts must be others, in words.
        restarts: running parts that are stopped and started again.
        starts: parts that do not run or do not answer.
        unreachable: external services that do not answer; nobody here can start them.
        cost: what users of the restarted parts notice; empty without any.
    """

    changes: tuple[str, ...] = ()
    restarts: tuple[str, ...] = ()
    starts: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()
    cost: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether everything runs as it should."""
        return not (self.restarts or self.starts or self.unreachable)

    def lines(self) -> Iterator[str]:
        """For people, one thing a line."""
        if self.is_empty:
            yield "nothing to do: everything is running"
            return
        yield from self.changes
        if self.restarts:
            yield f"migrate the database, then restart {', '.join(self.restarts)}"
            yield self.cost
        if self.starts:
            yield f"start {', '.join(self.starts)}"
        if self.unreachable:
            yield f"cannot be reached now: {', '.join(self.unreachable)}"

    def require_approval(self, approved: "Plan | None") -> None:
        """Restart nothing that nobody has agreed to.

        Raises:
            InvalidRequest: it restarts a part that `approved` does not.
        """
        agreed = approved.restarts if approved is not None else ()
        if set(self.restarts) - set(agreed):
            raise InvalidRequest(
                f"{'; '.join(self.changes)}: {', '.join(self.restarts)} must be restarted. "
                "`foundry up --yes` does it, `foundry up --plan` shows what that interrupts"
            )


def plan_up(settings: Settings) -> Plan:
    """What `up` would do now; changes nothing."""
    state = load_state(settings.home)
    parts = inspect_parts(settings, state)
    changes = tuple(list_changes(settings, state)) if _runs_ours(settings, state, parts) else ()
    on_ray = _ON_RAY if settings.ray.address is not None else ("ray", *_ON_RAY)
    restarts = on_ray if changes else ()
    silent = [part for part in parts if not part.healthy and part.part not in restarts]
    cost = _EXTERNAL_COST if _find_noted_ray(state) is None else _LOCAL_COST
    return Plan(
        changes,
        restarts,
        tuple(part.part for part in silent if not part.external),
        tuple(f"{part.part} ({part.detail})" for part in silent if part.external),
        cost if restarts else "",
    )


def list_changes(settings: Settings, state: StackState | None) -> list[str]:
    """Why what runs must be restarted, in words; empty: nothing runs, or it is as wanted."""
    if state is None:
        # Started by hand there, or from another machine: nobody here has noted with what.
        return [] if settings.ray.address is None else [_UNKNOWN]
    if settings.ray.address is None and find_ray_head(settings, state) is None:
        return []
    wanted = digest_wanted_stack(settings)
    return describe_changes(state.digests, wanted, settings, state.environment)


def _runs_ours(settings: Settings, state: StackState | None, parts: list[PartStatus]) -> bool:
    """Whether there is anything of ours to restart; on another's cluster the applications tell."""
    if settings.ray.address is None or _find_noted_ray(state) is not None:
        return True
    return any(part.healthy for part in parts if part.part in HEALTH_PATHS)


def _find_noted_ray(state: StackState | None) -> psutil.Process | None:
    if state is None or "ray" not in state.pids:
        return None
    return find_process(*state.pids["ray"])


def digest_wanted_stack(settings: Settings) -> dict[str, str]:
    """Digests of the code and settings that an `up` would start now."""
    token = ray.find_token(settings)
    return digest_stack(settings, token.read_bytes() if token.is_file() else b"")


def find_ray_head(settings: Settings, state: StackState | None) -> psutil.Process | None:
    """This home's Ray head if it runs and takes connections."""
    head = _find_noted_ray(state)
    if state is None or head is None:
        return None
    return head if is_listening(LOOPBACK, state.ray_port(settings)) else None
