"""The first key: of a home, and of a database that several machines use."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text

from foundry.cli.main import run
from foundry.config import Settings, child_environment, environment_of
from foundry.control.bootstrap import create_first_key, initialise_home
from foundry.errors import Conflict, SetupError
from foundry.governance.identity.pepper import ensure_pepper, load_pepper
from foundry.governance.identity.service import Authenticator
from foundry.infra.database import Database
from tests.postgres import Server, open_database

pytestmark = pytest.mark.postgres


def _external(postgres_server: Server, url: str, folder: Path) -> Settings:
    """As on premises: application and owner have URLs of their own, the pepper was brought."""
    pepper = folder / "pepper"
    ensure_pepper(pepper)
    return Settings.model_validate(
        {
            "home": folder / "home",
            "database": {"url": url, "migration_url": postgres_server.owned(url)},
            "security": {"bcrypt_cost": 4, "pepper_file": pepper},
        }
    )


async def _execute(url: str, statement: str) -> None:
    async with open_database(url) as database, database.begin() as db:
        await db.execute(text(statement))


async def test_a_home_gets_its_first_key_once(database_url: str, tmp_path: Path) -> None:
    pepper = tmp_path / "pepper"
    ensure_pepper(pepper)
    settings = Settings.model_validate(
        {
            "home": tmp_path / str(uuid4()),
            "database": {"url": database_url},
            "security": {"bcrypt_cost": 4, "pepper_file": pepper},
        }
    )
    first = await initialise_home(settings)
    assert first is not None
    assert first.api_key not in repr(first)
    settings.home.mkdir()
    (settings.home / "credentials.json").write_text(f'{{"api_key": "{first.api_key}"}}')
    assert await initialise_home(settings) is None
    (settings.home / "credentials.json").write_text("half a file")
    second = await initialise_home(settings)
    assert second is not None
    assert second.id != first.id


async def test_an_empty_database_is_migrated_and_its_key_works(
    postgres_server: Server, tmp_path: Path
) -> None:
    async with postgres_server.empty() as url:
        settings = _external(postgres_server, url, tmp_path)
        first = await create_first_key(settings)
        async with Database(url, settings.database) as database:
            authenticator = Authenticator(database, load_pepper(settings), settings.security)
            caller = await authenticator.authenticate(f"Bearer {first.api_key}")
            authenticator.close()
        assert (caller.role, caller.subject, caller.credential_id) == ("admin", "admin", first.id)
        # Nothing of it stays on this machine.
        assert not settings.home.exists()


async def test_of_two_callers_at_once_one_gets_a_key(
    postgres_server: Server, database_url: str, tmp_path: Path
) -> None:
    settings = _external(postgres_server, database_url, tmp_path)
    ends = await asyncio.gather(
        *(create_first_key(settings) for _ in range(4)), return_exceptions=True
    )
    refusals = [end for end in ends if isinstance(end, Conflict)]
    (key,) = [end for end in ends if not isinstance(end, BaseException)]
    assert len(refusals) == 3
    assert {refusal.message.split(" (")[1].split(",")[0] for refusal in refusals} == {key.id}


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        ("UPDATE api_keys SET name = 'other'", True),
        ("UPDATE api_keys SET revoked_at = now()", False),
        ("UPDATE api_keys SET expires_at = now()", False),
        ("UPDATE api_keys SET role = 'member'", False),
        ("UPDATE api_keys SET scopes = '[\"jobs:*\"]'", False),
        ("DELETE FROM api_keys", False),
    ],
)
async def test_only_a_key_that_can_make_others_stands_in_the_way(
    postgres_server: Server, database_url: str, tmp_path: Path, statement: str, refused: bool
) -> None:
    settings = _external(postgres_server, database_url, tmp_path)
    first = await create_first_key(settings)
    await _execute(postgres_server.owned(database_url), statement)
    if refused:
        with pytest.raises(Conflict, match=f"an administrator's key exists \\({first.id}, 'other'"):
            await create_first_key(settings)
    else:
        assert (await create_first_key(settings)).id != first.id


async def test_it_is_in_the_audit(
    postgres_server: Server, database_url: str, tmp_path: Path
) -> None:
    first = await create_first_key(_external(postgres_server, database_url, tmp_path))
    async with open_database(database_url) as database, database.begin() as db:
        found = await db.execute(
            text("SELECT action, resource_id, credential_id, outcome FROM audit_events")
        )
        assert [tuple(row) for row in found] == [
            ("key.create", first.id, "bootstrap", "success"),
        ]


async def test_without_a_pepper_nothing_is_touched(postgres_server: Server, tmp_path: Path) -> None:
    async with postgres_server.empty() as url:
        settings = Settings.model_validate({"home": tmp_path, "database": {"url": url}})
        for make in (create_first_key, initialise_home):
            with pytest.raises(SetupError, match="set FOUNDRY_SECURITY__PEPPER_FILE"):
                await make(settings)
        async with open_database(url) as database, database.begin() as db:
            found = await db.execute(
                text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            )
            assert found.scalar_one() == 0


async def test_the_command_prints_the_key_once_and_then_refuses(
    postgres_server: Server, database_url: str, tmp_path: Path
) -> None:
    settings = _external(postgres_server, database_url, tmp_path)

    def bootstrap() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "foundry.cli.main", "keys", "bootstrap", "--output", "json"],
            env=child_environment(**environment_of(settings)),
            capture_output=True,
            text=True,
            check=False,
        )

    first = await asyncio.to_thread(bootstrap)
    assert (first.returncode, first.stderr) == (0, "")
    made = json.loads(first.stdout)
    assert sorted(made) == ["id", "key"]
    assert made["key"].startswith(f"fk_live_{made['id']}_")
    second = await asyncio.to_thread(bootstrap)
    assert (second.returncode, second.stdout) == (6, "")
    assert f"an administrator's key exists ({made['id']}, 'first administrator')" in second.stderr
    assert made["key"] not in second.stderr


def test_the_module_that_up_runs_says_that_settings_are_wrong(tmp_path: Path) -> None:
    """2, so that `foundry up` tells it as the user's to mend, not as a part that failed."""
    done = subprocess.run(
        [sys.executable, "-m", "foundry.control.bootstrap"],
        env=child_environment(
            FOUNDRY_HOME=str(tmp_path), FOUNDRY_DATABASE__URL="postgresql+asyncpg://a@127.0.0.1:1/b"
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "set FOUNDRY_SECURITY__PEPPER_FILE" in done.stderr


def test_config_check_names_the_missing_pepper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOUNDRY_HOME", str(tmp_path))
    assert run(["config", "check"]) == 0
    monkeypatch.setenv("FOUNDRY_DATABASE__URL", "postgresql+asyncpg://a@db/b")
    assert run(["config", "check"]) == 2
    assert "set FOUNDRY_SECURITY__PEPPER_FILE" in capsys.readouterr().err
