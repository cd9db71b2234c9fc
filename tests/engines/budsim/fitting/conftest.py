"""The measured benchmarks as rows."""

from pathlib import Path

import pytest

from foundry.engines.budsim.fitting.rows import Rows, pilot_rows, serving_rows, static_rows


@pytest.fixture(scope="session")
def serving(data: Path) -> Rows:
    return serving_rows(data)


@pytest.fixture(scope="session")
def pilot(data: Path) -> Rows:
    return pilot_rows(data)


@pytest.fixture(scope="session")
def static(data: Path) -> Rows:
    return static_rows(data)
