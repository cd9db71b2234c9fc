"""The walk of docs/security.md on a machine of our own: its blocks are run, not copied."""

import asyncio
import re
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from foundry.config import Settings, load_settings
from foundry.control.bootstrap import create_first_key
from foundry.errors import Conflict, DatabaseUnavailable
from foundry.infra.cluster_probe import Reply, Tls, ask_control_service
from foundry.infra.database_roles import DatabaseRole
from foundry.infra.embedded import postgres
from foundry.infra.embedded.paths import runtime_dir
from foundry.infra.migrations import upgrade
from foundry.infra.wiring import database_url, open_database
from foundry.install.builds import ROOT
from tests.fakes.ray_doors import TOKEN, control_service, node_certificate
from tests.infra.test_cluster_configs import read_as_systemd

pytestmark = pytest.mark.postgres
_PASSWORDS = {"foundry_migrate": "one", "foundry_app": "two", "foundry_gateway": "three"}


def _blocks(language: str) -> list[str]:
    """The walk's code, in order."""
    walk = (ROOT / "docs" / "security.md").read_text().partition("## From nothing")[2]
    return re.findall(rf"```{language}\n(.*?)```", walk, re.DOTALL)


@pytest.fixture(scope="module")
def secrets() -> Iterator[Path]:
    """What step 2 makes, in a folder that stands for /etc/foundry; the node is this machine."""
    folder = Path(tempfile.mkdtemp(prefix="fdry-test-"))
    (folder / "tls").mkdir()
    once, each = (block for block in _blocks("bash") if "openssl" in block)
    script = (once + each).replace("/etc/foundry", str(folder)).replace("192.0.2.10", "127.0.0.1")
    subprocess.run(["bash", "-euo", "pipefail", "-c", script], check=True, capture_output=True)
    yield folder
    shutil.rmtree(folder)


def test_the_secrets_are_what_the_settings_ask_for(secrets: Path) -> None:
    assert len((secrets / "pepper").read_bytes()) == 32
    assert re.fullmatch(r"[0-9a-f]{64}\n", (secrets / "ray-token").read_text())
    modes = {path.name: path.stat().st_mode & 0o777 for path in secrets.rglob("*.*")}
    assert {"ca-key.pem": 0o600, "node-key.pem": 0o600}.items() <= modes.items()
    assert (secrets / "pepper").stat().st_mode & 0o777 == 0o400
    assert (secrets / "ray-token").stat().st_mode & 0o777 == 0o400


def test_a_node_speaks_tls_with_its_certificate(secrets: Path) -> None:
    certificate, key, authority = (
        (secrets / "tls" / name).read_bytes() for name in ("node.pem", "node-key.pem", "ca.pem")
    )
    tls = Tls(certificate, key, authority)
    with control_service(TOKEN, tls) as address:
        assert ask_control_service(address, token=TOKEN, tls=tls) is Reply.ANSWERED
        assert ask_control_service(address, tls=tls) is Reply.REFUSED


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A server as somebody else set it up, by the SQL of step 3."""
    folder = Path(tempfile.mkdtemp(prefix="fdry-test-"))
    postgres.start(folder)
    roles = ", ".join(role for role in DatabaseRole if role is not DatabaseRole.ADMIN)
    (sql,) = _blocks("sql")
    for statement in ("DROP DATABASE foundry", f"DROP ROLE {roles}", sql):
        postgres.execute_sql(folder, statement, "postgres")
    yield folder
    postgres.stop(folder)
    shutil.rmtree(folder)
    shutil.rmtree(runtime_dir(folder), ignore_errors=True)


@asynccontextmanager
async def _over_tls(home: Path, certificates: Path) -> AsyncIterator[int]:
    """The server's port for callers from the network: its build has no TLS, so that is put before.

    A caller asks for TLS with an 8-byte message, is answered S, and everything after is encrypted.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "node.pem", certificates / "node-key.pem")

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            assert (await reader.readexactly(8))[4:] == bytes.fromhex("04d2162f")
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(context)
            socket = f"{runtime_dir(home)}/pg/.s.PGSQL.5432"
            to_server = await asyncio.open_unix_connection(socket)
            await asyncio.gather(_copy(reader, to_server[1]), _copy(to_server[0], writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


def _settings(port: int, secrets: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The shipped file with this server's address and passwords."""
    shipped = read_as_systemd((ROOT / "cluster_configs" / "on-premises.env").read_text())
    for name, value in shipped.items():
        if value.startswith("postgresql"):
            url = make_url(value)
            password = _PASSWORDS[str(url.username)]
            url = url.set(host="127.0.0.1", port=port, password=password)
            value = url.render_as_string(hide_password=False)
        moved = value.replace("/etc/foundry", str(secrets))
        monkeypatch.setenv(name, moved.replace("/var/lib/foundry", str(folder)))
    return load_settings()


async def test_the_first_key_is_made_over_tls_with_the_shipped_settings(
    home: Path, secrets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _over_tls(home, secrets / "tls") as port:
        settings = _settings(port, secrets, tmp_path, monkeypatch)
        first = await create_first_key(settings)
        async with (
            open_database(settings, DatabaseRole.GATEWAY) as database,
            database.begin() as db,
        ):
            found = await db.execute(text("SELECT current_user, id, role FROM api_keys"))
            assert [tuple(row) for row in found] == [("foundry_gateway", first.id, "admin")]
        for role, statement in {
            DatabaseRole.APP: "DELETE FROM audit_events",
            DatabaseRole.GATEWAY: "INSERT INTO audit_events SELECT * FROM audit_events",
        }.items():
            async with open_database(settings, role) as database:
                with pytest.raises(ProgrammingError, match="permission denied"):
                    async with database.begin() as db:
                        await db.execute(text(statement))
        with pytest.raises(Conflict, match=first.id):
            await create_first_key(settings)


@pytest.mark.parametrize("authority", [None, "another"])
async def test_a_server_that_nobody_vouches_for_gets_no_password(
    home: Path,
    secrets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    authority: str | None,
) -> None:
    """Without the authority's certificate, and with one that did not sign the server's."""
    async with _over_tls(home, secrets / "tls") as port:
        settings = _settings(port, secrets, tmp_path, monkeypatch)
        monkeypatch.setenv("HOME", str(tmp_path))
        if authority is None:
            monkeypatch.delenv("PGSSLROOTCERT")
        else:
            (tmp_path / "ca.pem").write_bytes(node_certificate().authority)
            monkeypatch.setenv("PGSSLROOTCERT", str(tmp_path / "ca.pem"))
        async with open_database(settings) as database:
            with pytest.raises(DatabaseUnavailable):
                await database.ping()
        with pytest.raises(DatabaseUnavailable, match="not trusted: set PGSSLROOTCERT"):
            await create_first_key(settings)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"password": "wrong"}, "it refuses the role: check its name and password"),
        ({"username": "nobody"}, "it refuses the role: check its name and password"),
        ({"database": "other"}, "it has no database of that name: create it first"),
        ({"port": 1}, "check its address, and that it runs"),
    ],
)
async def test_what_is_wrong_with_the_database_is_told_in_words(
    home: Path,
    secrets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    says: str,
) -> None:
    async with _over_tls(home, secrets / "tls") as port:
        settings = _settings(port, secrets, tmp_path, monkeypatch)
        url = make_url(database_url(settings, DatabaseRole.MIGRATE)).set(**change)
        with pytest.raises(DatabaseUnavailable, match=says):
            await upgrade(url.render_as_string(hide_password=False))
