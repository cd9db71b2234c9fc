"""Fixtures of the control plane's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from foundry.config import HttpSettings
from foundry.infra.database import Database
from tests.control.client import Control, running_control


@pytest.fixture
async def control(database: Database, tmp_path: Path) -> AsyncIterator[Control]:
    http = HttpSettings(max_body_bytes=4096, max_upload_bytes=64 * 1024)
    async with running_control(database, tmp_path / "objects", http) as running:
        yield running
