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
from pathlib import Path

import psutil

from foundry.errors import DiskFull, Unavailable
from foundry.infra.database_roles import DatabaseRole
from foundry.infra.embedded.database_access import (
    build_password_statements,
    read_secret,
    write_rules,
)
from foundry.infra.embedded.paths import (
    disk_full_message,
    ensure_home,
    ensure_runtime_dir,
    runtime_dir,
)
from foundry.infra.embedded.postgres_programs import (
    COMMAND_TIMEOUT_S,
    ensure_server_account,
    find_binaries,
    run_program,
)
from foundry.infra.embedded.processes import stop_processes, wait_until_gone

_DATABASE = "foundry"
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
_WITH_PASSWORD = tuple(role for role in DatabaseRole if role is not DatabaseRole.ADMIN)


def build_url(home: Path, role: DatabaseRole) -> str:
    """Where the embedded server of `home` listens, whether or not it runs; holds the password.

    Raises:
        SetupError: the password belongs to another account.
    """
    secret = read_secret(home, role)
    login = role if secret is None else f"{role}:{secret}"
    return f"postgresql+asyncpg://{login}@/{_DATABASE}?host={_socket_dir(home)}"


def start(
    home: Path, environment: Mapping[str, str] | None = None, *, keep_rules: bool = False
) -> int:
    """Start the server, or find it running. Returns the postmaster's pid.

    Args:
        environment: of the server's processes; default: this process's.
        keep_rules: leave who may connect as it is, for processes of an earlier release that know
            no password and still run.

    Raises:
        SetupError: the wheel is missing or the system user cannot be made.
        DiskFull: no space for the data directory.
        Unavailable: PostgreSQL refused to start; the message has the reason from its log.
    """
    ensure_home(home)
    ensure_runtime_dir(home)
    with _lock_server(home):
        found = _await_recovery(home) is not None
        if not found:
            _launch_anew(home, environment, keep_rules=keep_rules)
        _prepare_database(home)
        if found and not keep_rules and _write_rules(home):
            execute_sql(home, "SELECT pg_reload_conf()")
        started = find_running_pid(home)
    if started is None:
        raise Unavailable(f"PostgreSQL stopped right after its start: see {log_file(home)}")
    return started


def _launch_anew(home: Path, environment: Mapping[str, str] | None, *, keep_rules: bool) -> None:
    _prepare_folders(home)
    if not (data_dir(home) / "PG_VERSION").exists():
        _initialise_data(home)
    _clear_stale_pid(home)
    if not keep_rules:
        _write_rules(home)
    _launch_server(home, environment)


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


def _prepare_folders(home: Path) -> None:
    owner = ensure_server_account()
    for folder in (data_dir(home).parent, data_dir(home), _socket_dir(home)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if owner is not None:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        folder.chmod(0o700)
    if owner is None:
        return
    for needed in (data_dir(home).parent, _socket_dir(home), find_binaries() / "bin"):
        _let_search(needed)


def _let_search(path: Path) -> None:
    """Let other accounts pass through (never list) the folders above `path`."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXGRP | stat.S_IXOTH)


def _initialise_data(home: Path) -> None:
    """initdb; an attempt that was killed half-way is thrown away first."""
    for leftover in data_dir(home).iterdir():
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    try:
        run_program(
            "initdb",
            f"--pgdata={data_dir(home)}",
            f"--username={DatabaseRole.ADMIN}",
            "--auth-local=peer",
            "--auth-host=reject",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        )
    except subprocess.CalledProcessError as error:
        raise _explain_failure(home, str(error.stdout)) from error


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
            run_program(
                "pg_ctl",
                "--wait",
                f"--timeout={_RECOVERY_S}",
                f"--pgdata={data_dir(home)}",
                f"--log={log_file(home)}",
                f"--options={flags}",
                "start",
                environment=environment,
                # pg_ctl gives up first, and says why.
                timeout_s=_RECOVERY_S + COMMAND_TIMEOUT_S,
            )
        except subprocess.CalledProcessError as error:
            log = _read_log_tail(home)
            # Backends of a killed postmaster leave within seconds and hold its memory until then.
            if "still in use" in log and time.monotonic() < deadline:
                time.sleep(0.3)
                continue
            raise _explain_failure(home, log or str(error.stdout)) from error
        return


def _prepare_database(home: Path) -> None:
    """The database, its roles and their passwords; repeats change only the salts."""
    query = f"SELECT 1 FROM pg_database WHERE datname = '{_DATABASE}'"
    roles = Path(__file__).with_name("roles.sql").read_text()
    try:
        if not execute_sql(home, query, database="postgres").strip():
            execute_sql(home, f"CREATE DATABASE {_DATABASE}", database="postgres")
        execute_sql(home, f"{roles};\n{build_password_statements(home, _WITH_PASSWORD)}")
    except subprocess.CalledProcessError as error:
        raise _explain_failure(home, str(error.stdout)) from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"PostgreSQL left a command unanswered: run `foundry up` again (log: {log_file(home)})"
        ) from error


def _write_rules(home: Path) -> bool:
    account = ensure_server_account() or pwd.getpwuid(os.geteuid())
    return write_rules(data_dir(home), DatabaseRole.ADMIN, account.pw_name)


def execute_sql(home: Path, script: str, database: str = _DATABASE) -> str:
    """Run SQL as the server's administrator. Returns values, `|` between columns, a row a line.

    Raises:
        subprocess.CalledProcessError: a statement failed; the output says why.
    """
    return run_program(
        "psql",
        f"--host={_socket_dir(home)}",
        f"--username={DatabaseRole.ADMIN}",
        f"--dbname={database}",
        "--no-psqlrc",
        "--set=ON_ERROR_STOP=1",
        "-qAt",
        # Not an argument, which every account of this machine can read.
        script=script,
    )


def probe_server(home: Path) -> Reply:
    """Whether it takes queries, or lives and refuses them. A frozen one is given 3 s."""
    try:
        run_program("pg_isready", f"--host={_socket_dir(home)}", "--timeout=3")
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


def _explain_failure(home: Path, output: str) -> DiskFull | Unavailable:
    if "No space left" in output:
        return DiskFull(disk_full_message(home))
    lines = reversed(output.splitlines())
    reason = next(
        (line for line in lines if "FATAL" in line or "error" in line.lower()),
        output.strip().rpartition("\n")[2],
    )
    return Unavailable(f"PostgreSQL did not start: {reason.strip()} (log: {log_file(home)})")
