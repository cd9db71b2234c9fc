"""The measured benchmarks and traces, where this machine has them."""

import os
from pathlib import Path

import pytest

_DATA = os.environ.get("FOUNDRY_BUDSIM_DATA")


@pytest.fixture(scope="session")
def data() -> Path:
    if not _DATA:
        pytest.skip("FOUNDRY_BUDSIM_DATA is not set")
    return Path(_DATA)


@pytest.fixture(scope="session")
def traces(data: Path) -> Path:
    """The folder of the measured traces; the benchmarks' own folder has none."""
    folder = data / "traces"
    if not folder.is_dir():
        pytest.skip("FOUNDRY_BUDSIM_DATA has no folder traces")
    return folder
