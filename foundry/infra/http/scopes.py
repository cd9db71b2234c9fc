"""What an ASGI scope tells of a request."""

from starlette.types import Scope


def route_path(scope: Scope) -> str:
    """The path below the mount point, by which routes are declared."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and (path == root or path.startswith(f"{root}/")):
        return path[len(root) :] or "/"
    return path


def request_id(scope: Scope) -> str:
    value: str = scope.get("state", {}).get("request_id", "")
    return value
