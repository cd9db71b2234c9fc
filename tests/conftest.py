"""Fixtures of the whole suite, and the bound on what one test may take."""

from collections.abc import AsyncIterator, Generator, Iterator

import pytest

from foundry.infra.database import Database
from tests.postgres import Server, open_database, running_server

# Forty minutes for everything are kept only if no single test takes many of them unnoticed.
LONGEST_TEST_S = 90.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test of more than 90 s fails unless its marker `long(reason=…)` explains it."""
    report = yield
    late = call.when == "call" and call.duration > LONGEST_TEST_S
    if late and report.passed and item.get_closest_marker("long") is None:
        report.outcome = "failed"
        report.longrepr = (
            f"it took {call.duration:.0f} s of the {LONGEST_TEST_S:.0f} that a test may take: "
            "make it shorter, or explain it with @pytest.mark.long(reason=...)"
        )
    return report


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
async def database_url(postgres_server: Server) -> AsyncIterator[str]:
    """A migrated database of this test's own."""
    async with postgres_server.migrated() as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as opened:
        yield opened
