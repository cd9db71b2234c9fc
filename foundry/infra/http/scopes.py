"""What an ASGI scope tells of a request, and what the stages note in it for each other.

`state.stage` is where the request is. Each stage enters itself, so whatever ends a request, the
last one entered is where that happened.
"""

from enum import StrEnum

from starlette.types import Scope

from foundry.errors import FoundryError


class Stage(StrEnum):
    """Where a request can be, in the order in which one passes them.

    After `dispatch` an engine has it; a control plane's request ends in `route`.
    """

    SIZE = "size"
    LOAD = "load"
    AUTHENTICATION = "authentication"
    ROUTE = "route"
    PERMISSION = "permission"
    BODY = "body"
    RESOLUTION = "resolution"
    POLICY = "policy"
    ADMISSION = "admission"
    DISPATCH = "dispatch"


def enter_stage(scope: Scope, stage: Stage) -> None:
    scope.setdefault("state", {})["stage"] = stage


def current_stage(scope: Scope) -> Stage:
    """The stage that was entered last; the first one before any was."""
    stage: Stage = scope.get("state", {}).get("stage", Stage.SIZE)
    return stage


def note_error(scope: Scope, error: FoundryError) -> None:
    """Keep what the request is answered with, for the record of its end."""
    scope.setdefault("state", {})["error"] = error


def noted_error(scope: Scope) -> FoundryError | None:
    error: FoundryError | None = scope.get("state", {}).get("error")
    return error


def route_path(scope: Scope) -> str:
    """The path below the mount point, by which routes are declared."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def request_id(scope: Scope) -> str:
    """Our id of the request; empty before the stage that gives it one."""
    value: str = scope.get("state", {}).get("request_id", "")
    return value
