"""The pepper's file."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from foundry.config import DatabaseSettings, SecuritySettings, Settings
from foundry.errors import SetupError
from foundry.governance.identity.pepper import (
    ensure_pepper,
    load_pepper,
    pepper_path,
    prepare_pepper,
    read_pepper,
)

_EXTERNAL = DatabaseSettings(url=SecretStr("postgresql+asyncpg://app@db/foundry"))


def test_it_is_made_once_and_private(tmp_path: Path) -> None:
    path = pepper_path(Settings(home=tmp_path))
    assert path == tmp_path / "secrets" / "pepper"
    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(ensure_pepper, [path] * 8))
    assert len(made) == 1
    assert len(made.pop()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert [each.name for each in path.parent.iterdir()] == ["pepper"]


def test_a_missing_one_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="run `foundry up`"):
        read_pepper(tmp_path / "pepper")


def test_a_readable_or_short_one_is_invalid_key_error(tmp_path: Path) -> None:
    path = tmp_path / "pepper"
    path.write_bytes(bytes(32))
    path.chmod(0o644)
    with pytest.raises(SetupError, match="chmod 400"):
        read_pepper(path)
    path.write_bytes(bytes(31))
    path.chmod(0o400)
    with pytest.raises(SetupError, match="31 bytes"):
        read_pepper(path)


def test_an_external_database_needs_a_pepper_of_its_own(tmp_path: Path) -> None:
    """This machine's default would make keys that no other node can check."""
    default = tmp_path / "secrets" / "pepper"
    ensure_pepper(default)
    settings = Settings(home=tmp_path, database=_EXTERNAL)
    for use in (pepper_path, load_pepper, prepare_pepper):
        with pytest.raises(SetupError, match="set FOUNDRY_SECURITY__PEPPER_FILE") as refused:
            use(settings)
        assert str(default) in refused.value.message


def test_a_pepper_for_several_nodes_is_brought_and_never_made(tmp_path: Path) -> None:
    path = tmp_path / "pepper"
    security = SecuritySettings(pepper_file=path)
    external = Settings(home=tmp_path, database=_EXTERNAL, security=security)
    with pytest.raises(SetupError, match="copy the file that FOUNDRY_SECURITY__PEPPER_FILE"):
        prepare_pepper(external)
    assert not path.exists()
    made = prepare_pepper(Settings(home=tmp_path, security=security))
    assert prepare_pepper(external) == load_pepper(external) == made
