"""Who gets into the embedded PostgreSQL: roles with, without and with other passwords."""

import asyncio
import base64
import hashlib
import hmac
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from foundry.config import Settings
from foundry.errors import DatabaseUnavailable, SetupError
from foundry.infra.database_roles import DatabaseRole
from foundry.infra.embedded import postgres
from foundry.infra.embedded.database_access import (
    make_scram_verifier,
    read_secret,
    secret_file,
    write_rules,
)
from foundry.infra.embedded.paths import runtime_dir
from foundry.infra.migrations import upgrade
from foundry.infra.wiring import database_url
from tests.postgres import open_database

_ROLES = [DatabaseRole.MIGRATE, DatabaseRole.APP, DatabaseRole.GATEWAY, DatabaseRole.AUDIT_READER]
# What `initdb --auth-local=trust` of earlier releases wrote.
_TRUST = "local all all trust\n"


def test_the_verifier_is_that_of_rfc_7677() -> None:
    """Its example in section 3: the server's signature over the exchange."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    kind, iterations, keys = make_scram_verifier("pencil", salt).split("$")
    assert (kind, iterations) == ("SCRAM-SHA-256", "4096:W22ZaJ0SNY7soEsUEjb6gQ==")
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    exchange = (
        f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        f"c=biws,r={nonce}"
    ).encode()
    signature = base64.b64encode(hmac.digest(server, exchange, "sha256")).decode()
    assert signature == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    mask = hmac.digest(stored, exchange, "sha256")
    client = bytes(one ^ other for one, other in zip(proof, mask, strict=True))
    assert hashlib.sha256(client).digest() == stored


def test_two_verifiers_of_one_password_differ() -> None:
    assert make_scram_verifier("pencil") != make_scram_verifier("pencil")


def test_rules_name_no_trust_and_are_written_once(tmp_path: Path) -> None:
    assert write_rules(tmp_path, "foundry", "some account")
    assert (tmp_path / "pg_hba.conf").read_text().splitlines()[1:] == [
        "local all foundry peer map=administrator",
        "local all all scram-sha-256",
    ]
    assert (tmp_path / "pg_ident.conf").read_text().splitlines()[1:] == [
        'administrator "some account" foundry'
    ]
    assert (tmp_path / "pg_hba.conf").stat().st_mode & 0o777 == 0o600
    assert not write_rules(tmp_path, "foundry", "some account")
    (tmp_path / "pg_hba.conf").write_text(_TRUST)
    assert write_rules(tmp_path, "foundry", "some account")


def test_a_home_without_secrets_has_a_url_without_one(tmp_path: Path) -> None:
    assert make_url(postgres.build_url(tmp_path, DatabaseRole.APP)).password is None
    # An unreadable one is an error with advice, not a login that fails.
    secret_file(tmp_path, DatabaseRole.APP).mkdir(parents=True)
    with pytest.raises(SetupError, match="run as the account that owns"):
        postgres.build_url(tmp_path, DatabaseRole.APP)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fdry-test-"))
    postgres.start(folder)
    yield folder
    _remove(folder)


@pytest.fixture
def old_home() -> Iterator[Path]:
    """As an earlier release left it, its server running: nobody needs a password."""
    folder = Path(tempfile.mkdtemp(prefix="fdry-test-"))
    postgres.start(folder)
    for role in _ROLES:
        postgres.execute_sql(folder, f"ALTER ROLE {role} PASSWORD NULL")
        secret_file(folder, role).unlink()
    postgres.stop(folder)
    (postgres.data_dir(folder) / "pg_hba.conf").write_text(_TRUST)
    postgres.start(folder, keep_rules=True)
    yield folder
    _remove(folder)


def _remove(folder: Path) -> None:
    postgres.stop(folder)
    shutil.rmtree(folder)
    shutil.rmtree(runtime_dir(folder), ignore_errors=True)


async def _connect(home: Path, role: DatabaseRole, password: str | None) -> None:
    url = make_url(postgres.build_url(home, role))
    # Not `set(password=None)`, which keeps the one there is.
    url = url._replace(password=password)
    async with open_database(url.render_as_string(hide_password=False)) as database:
        await database.ping()


@pytest.mark.postgres
@pytest.mark.parametrize("role", _ROLES)
async def test_a_role_gets_in_by_its_own_password_only(home: Path, role: DatabaseRole) -> None:
    secret = read_secret(home, role)
    assert secret is not None
    assert len(secret) == 64
    await _connect(home, role, secret)
    others = {read_secret(home, other) for other in _ROLES if other is not role}
    assert len(others) == 3
    for wrong in (None, "wrong", *others):
        with pytest.raises(DatabaseUnavailable):
            await _connect(home, role, wrong)


@pytest.mark.postgres
async def test_the_administrator_gets_in_from_the_servers_account_only(home: Path) -> None:
    assert postgres.execute_sql(home, "SELECT current_user") == "foundry\n"
    if os.geteuid() != 0:
        pytest.skip("here the server runs under this very account, which peer lets in")
    with pytest.raises(DatabaseUnavailable):
        await _connect(home, DatabaseRole.ADMIN, None)


@pytest.mark.postgres
def test_nothing_but_its_file_holds_a_secret(home: Path) -> None:
    stored = postgres.execute_sql(
        home, "SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE 'foundry\\_%'"
    )
    kept = [secret_file(home, role) for role in _ROLES]
    assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
    assert kept[0].parent.stat().st_mode & 0o777 == 0o700
    assert len(stored.splitlines()) == 4
    log = postgres.log_file(home).read_text()
    for path in kept:
        assert path.read_text() not in stored + log
    assert all("|SCRAM-SHA-256$4096:" in line for line in stored.splitlines())
    assert "SCRAM-SHA-256$" not in log


@pytest.mark.postgres
async def test_an_older_home_asks_for_passwords_once_nothing_old_runs(old_home: Path) -> None:
    await upgrade(database_url(Settings(home=old_home), DatabaseRole.MIGRATE))
    await _connect(old_home, DatabaseRole.GATEWAY, None)
    postgres.start(old_home, keep_rules=True)
    await _connect(old_home, DatabaseRole.GATEWAY, None)
    await _connect(old_home, DatabaseRole.GATEWAY, read_secret(old_home, DatabaseRole.GATEWAY))
    pid = postgres.find_running_pid(old_home)
    assert postgres.start(old_home) == pid
    # The server reads its rules anew after it has answered.
    with pytest.raises(DatabaseUnavailable):
        async with asyncio.timeout(60):
            while True:
                await _connect(old_home, DatabaseRole.GATEWAY, None)
    await upgrade(database_url(Settings(home=old_home), DatabaseRole.MIGRATE))


@pytest.mark.postgres
async def test_a_lost_secret_is_replaced(home: Path) -> None:
    before = read_secret(home, DatabaseRole.AUDIT_READER)
    secret_file(home, DatabaseRole.AUDIT_READER).unlink()
    postgres.start(home)
    after = read_secret(home, DatabaseRole.AUDIT_READER)
    assert after != before
    await _connect(home, DatabaseRole.AUDIT_READER, after)
    with pytest.raises(DatabaseUnavailable):
        await _connect(home, DatabaseRole.AUDIT_READER, before)
