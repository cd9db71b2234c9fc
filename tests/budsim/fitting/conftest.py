"""The measured benchmarks, where this machine has them."""

import os
from pathlib import Path

import pytest

from foundry.budsim.fitting.rows import Rows, pilot_rows, serving_rows, static_rows

_DATA = os.environ.get("FOUNDRY_BUDSIM_DATA")


@pytest.fixture(scope="session")
def data() -> Path:
    if not _DATA:
        pytest.skip("FOUNDRY_BUDSIM_DATA is not set")
    return Path(_DATA)


@pytest.fixture(scope="session")
def serving(data: Path) -> Rows:
    return serving_rows(data)


@pytest.fixture(scope="session")
def pilot(data: Path) -> Rows:
    return pilot_rows(data)


@pytest.fixture(scope="session")
def static(data: Path) -> Rows:
    return static_rows(data)
