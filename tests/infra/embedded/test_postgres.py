import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from foundry.config import Settings, child_environment
from foundry.errors import DatabaseUnavailable
from foundry.infra.database_roles import DatabaseRole
from foundry.infra.embedded import postgres
from foundry.infra.embedded.paths import runtime_dir
from foundry.infra.wiring import database_url, open_database

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fdry-test-"))
    postgres.start(folder)
    yield folder
    postgres.stop(folder)
    shutil.rmtree(folder)
    shutil.rmtree(runtime_dir(folder), ignore_errors=True)


async def _scalar(home: Path, statement: str, role: DatabaseRole = DatabaseRole.APP) -> object:
    async with open_database(Settings(home=home), role) as database, database.begin() as session:
        return (await session.execute(text(statement))).scalar()


async def test_it_listens_on_its_socket_only(home: Path) -> None:
    assert database_url(Settings(home=home)) == postgres.build_url(home, DatabaseRole.APP)
    assert await _scalar(home, "SELECT 40 + 2") == 42
    assert await _scalar(home, "SHOW listen_addresses") == ""
    assert (runtime_dir(home) / "pg").stat().st_mode & 0o777 == 0o700


async def test_start_is_idempotent(home: Path) -> None:
    pid = postgres.find_running_pid(home)
    assert postgres.start(home) == pid


async def test_it_comes_back_after_sigkill_with_its_data(home: Path) -> None:
    owner = open_database(Settings(home=home), DatabaseRole.MIGRATE)
    async with owner as database, database.begin() as session:
        await session.execute(text("CREATE TABLE kept AS SELECT 7 AS x"))
    pid = postgres.start(home)
    os.kill(pid, signal.SIGKILL)
    again = postgres.start(home)
    assert again != pid
    assert await _scalar(home, "SELECT x FROM kept", DatabaseRole.MIGRATE) == 7


async def test_stop_twice_and_the_error_while_it_is_down(home: Path) -> None:
    postgres.start(home)
    assert postgres.stop(home)
    assert not postgres.stop(home)
    with pytest.raises(DatabaseUnavailable, match="foundry status"):
        await _scalar(home, "SELECT 1")
    postgres.start(home)
    assert await _scalar(home, "SELECT 1") == 1


async def test_the_server_carries_the_stacks_marker(home: Path) -> None:
    postgres.stop(home)
    pid = postgres.start(home, child_environment(FOUNDRY_STACK_ID="marker-for-test"))
    assert psutil.Process(pid).environ()["FOUNDRY_STACK_ID"] == "marker-for-test"


async def test_a_half_made_data_directory_is_made_again() -> None:
    folder = Path(tempfile.mkdtemp(prefix="fdry-test-"))
    try:
        postgres.data_dir(folder).mkdir(parents=True)
        (postgres.data_dir(folder) / "base").mkdir()
        postgres.start(folder)
        assert await _scalar(folder, "SELECT 1") == 1
    finally:
        postgres.stop(folder)
        shutil.rmtree(folder)
        shutil.rmtree(runtime_dir(folder), ignore_errors=True)
