"""Who may connect to the embedded PostgreSQL: a secret per role, and the rules that ask for it.

Secrets lie in files of FOUNDRY_HOME. The server is told a verifier (RFC 5802) and never the secret
itself, so neither a command line, its log nor its tables hold it. The administrator has no secret:
the server asks the system which account is at the other end of the socket, and only the account
that it runs under itself passes.
"""

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from foundry.errors import SetupError
from foundry.infra.embedded.paths import write_private
from foundry.validation import describe_os_error

_SECRET_BYTES = 32
# What PostgreSQL takes itself. A secret of 256 random bits needs no slower derivation.
_ITERATIONS, _SALT_BYTES = 4096, 16
_MAP = "administrator"
_WRITTEN_BY = "# Written by Foundry at every start: changes are lost.\n"


def secret_file(home: Path, role: str) -> Path:
    """Where the password of a role lies; readable by the home's owner only."""
    return home / "secrets" / f"{role}.password"


def ensure_secret(home: Path, role: str) -> str:
    """The role's password, made if there is none. For one process at a time."""
    if (found := read_secret(home, role)) is not None:
        return found
    made = secrets.token_hex(_SECRET_BYTES)
    write_private(secret_file(home, role), made)
    return made


def read_secret(home: Path, role: str) -> str | None:
    """The role's password; None: the server of this home has not been given one yet.

    Raises:
        SetupError: it is there and cannot be read.
    """
    path = secret_file(home, role)
    try:
        return path.read_text().strip() or None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SetupError(
            f"{path} cannot be read ({describe_os_error(error)}): run as the account that "
            f"owns {home}"
        ) from error


def build_password_statements(home: Path, roles: Iterable[str]) -> str:
    """SQL that gives each role the password in its file."""
    # A statement that fails would be in the server's log, verifier and all.
    return "SET log_min_error_statement = panic;\n" + "".join(
        f"ALTER ROLE {role} PASSWORD '{make_scram_verifier(ensure_secret(home, role))}';\n"
        for role in roles
    )


def make_scram_verifier(password: str, salt: bytes | None = None) -> str:
    """What PostgreSQL stores for a password: it proves a client's knowledge and is of no other use.

    Args:
        password: ASCII, which SASLprep leaves as it is.
        salt: default: 16 random bytes.
    """
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_64, stored_64, server_64 = (
        base64.b64encode(part).decode() for part in (salt, stored, server)
    )
    return f"SCRAM-SHA-256${_ITERATIONS}:{salt_64}${stored_64}:{server_64}"


def write_rules(data: Path, administrator: str, account: str) -> bool:
    """Let roles in by password, and the administrator from its account. Whether that is new.

    Args:
        data: the server's data directory; the files get its owner.
        administrator: the role that needs no password.
        account: of the operating system, under which the server runs.
    """
    rules = {
        "pg_hba.conf": f"local all {administrator} peer map={_MAP}\nlocal all all scram-sha-256\n",
        "pg_ident.conf": f'{_MAP} "{account}" {administrator}\n',
    }
    changed = [_replace_rules(data / name, _WRITTEN_BY + text) for name, text in rules.items()]
    return any(changed)


def _replace_rules(path: Path, text: str) -> bool:
    if path.is_file() and path.read_text() == text:
        return False
    partial = path.with_name(f".{path.name}.partial")
    write_private(partial, text)
    owner = path.parent.stat()
    os.chown(partial, owner.st_uid, owner.st_gid)
    partial.replace(path)
    return True
