"""Fixtures of the whole suite, and the bound on what one test may take."""

import os
from collections.abc import AsyncIterator, Generator, Iterator

import pytest
from _pytest.mark.expression import Expression

from foundry.infra.database import Database
from tests.postgres import Server, open_database, running_server

# Forty minutes for everything are kept only if no single test takes many of them unnoticed.
LONGEST_TEST_S = 90.0
# What hides every device from torch's builds for NVIDIA and AMD, and from that for Intel.
HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "ONEAPI_DEVICE_SELECTOR": "!level_zero:*"}


def pytest_configure(config: pytest.Config) -> None:
    """Without tests marked gpu, hide accelerators: the others compare with a processor's numbers.

    Ray and the engine, whose tests run beside those, shall find them.
    """
    selected = Expression.compile(config.option.markexpr or "gpu")
    if not selected.evaluate(_is_gpu):
        os.environ |= HIDDEN


def _is_gpu(name: str, /, **_: str | int | bool | None) -> bool:
    return name == "gpu"


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
