"""Whether the cluster that the applications are to run on is closed to strangers."""

from collections.abc import Mapping
from pathlib import Path

from foundry.config import Settings
from foundry.errors import SetupError
from foundry.infra.cluster_probe import (
    TIMEOUT_S,
    Reply,
    Tls,
    ask_control_service,
    ask_dashboard,
    is_loopback,
)
from foundry.validation import describe_os_error

_EXAMPLE = "see cluster_configs/on-premises.env"
_TLS_FILES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")


def require_hardened(
    settings: Settings, environment: Mapping[str, str], timeout_s: float = TIMEOUT_S
) -> None:
    """Refuse a cluster that would run code for whoever reaches it: its answers count.

    Args:
        environment: of this process; says where the cluster is and how it is to be called.
        timeout_s: for each of at most five calls.

    Raises:
        SetupError: a variable is missing, the cluster lets strangers in, or it does not answer.
    """
    require_variables(settings, environment)
    token, tls = _read_token(environment), _read_tls(environment)
    address = environment["RAY_ADDRESS"]
    if tls and ask_control_service(address, timeout_s=timeout_s) is not Reply.NONE:
        raise SetupError(
            f"Ray at {address} speaks without TLS: start every node with RAY_USE_TLS=1"
        )
    _require_closed(
        f"Ray's control service at {address}",
        ask_control_service(address, tls=tls, timeout_s=timeout_s),
        ask_control_service(address, token=token, tls=tls, timeout_s=timeout_s),
        "its address and RAY_USE_TLS with its certificates are those of the nodes",
    )
    host, port = settings.ray.dashboard_host, settings.ray.dashboard_port
    _require_closed(
        f"Ray's dashboard at {host}:{port}",
        ask_dashboard(host, port, timeout_s=timeout_s),
        ask_dashboard(host, port, token=token, timeout_s=timeout_s),
        "FOUNDRY_RAY__DASHBOARD_HOST and FOUNDRY_RAY__DASHBOARD_PORT name it",
    )


def require_variables(settings: Settings, environment: Mapping[str, str]) -> None:
    """Check what a hardened cluster needs to be told, before it is asked anything.

    Raises:
        SetupError: a variable is missing or contradicts another.
    """
    if environment.get("RAY_AUTH_MODE") != "token":
        raise SetupError(
            "set RAY_AUTH_MODE=token on every node and here: a cluster without is open"
        )
    address = environment.get("RAY_ADDRESS", "")
    host = address.rpartition(":")[0]
    if not host:
        raise SetupError(f"set RAY_ADDRESS to host:port of the cluster's GCS: {_EXAMPLE}")
    if settings.ray.address not in (None, address):
        raise SetupError(
            f"RAY_ADDRESS is {address} and FOUNDRY_RAY__ADDRESS {settings.ray.address}: "
            "set both to the same cluster"
        )
    if not is_loopback(host) and not _wants_tls(environment):
        raise SetupError(
            f"set RAY_USE_TLS=1 on every node and here: {host} is not loopback, "
            "and the token would cross the network in the clear"
        )
    if settings.ray.address is not None and not is_loopback(settings.ray.dashboard_host):
        raise SetupError(
            "start the head node with --dashboard-host=127.0.0.1, run this there and set "
            "FOUNDRY_RAY__DASHBOARD_HOST=127.0.0.1: Ray's dashboard has no TLS, and the token "
            "would cross the network in the clear"
        )
    needed = ("RAY_AUTH_TOKEN_PATH", *(_TLS_FILES if _wants_tls(environment) else ()))
    if missing := [name for name in needed if not environment.get(name)]:
        raise SetupError(f"set {', '.join(missing)}: {_EXAMPLE}")


def _require_closed(what: str, stranger: Reply, ours: Reply, check: str) -> None:
    if stranger is Reply.ANSWERED:
        raise SetupError(
            f"{what} answers callers without a token, and so runs code for them: start every node "
            "with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        )
    if Reply.NONE in (stranger, ours):
        raise SetupError(f"{what} does not answer: check that the cluster runs, and that {check}")
    if ours is Reply.REFUSED:
        raise SetupError(
            f"{what} refuses the token in RAY_AUTH_TOKEN_PATH: every node and this process "
            "need the same one"
        )


def _wants_tls(environment: Mapping[str, str]) -> bool:
    """By the words that Ray takes for yes."""
    return environment.get("RAY_USE_TLS", "").lower() in ("1", "true")


def _read_token(environment: Mapping[str, str]) -> str:
    path = Path(environment["RAY_AUTH_TOKEN_PATH"])
    token = _read_file(path, "RAY_AUTH_TOKEN_PATH").decode("ascii", "replace").strip()
    if not token:
        raise SetupError(f"{path} is empty: put 64 random hex digits there, the same on every node")
    if path.stat().st_mode & 0o077:
        raise SetupError(f"{path} is readable by others: run `chmod 400 {path}` on every node")
    return token


def _read_tls(environment: Mapping[str, str]) -> Tls | None:
    if not _wants_tls(environment):
        return None
    return Tls(*(_read_file(Path(environment[name]), name) for name in _TLS_FILES))


def _read_file(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SetupError(
            f"{variable}: {path} cannot be read ({describe_os_error(error)})"
        ) from error
