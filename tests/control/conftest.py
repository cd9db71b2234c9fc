"""Fixtures of the control plane's tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from foundry.config import DatabaseSettings, HttpSettings
from foundry.control.app import create_control
from foundry.governance.identity.service import Authenticator
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from tests.control.client import PEPPER, SECURITY, Control, Sections, running_control


@pytest.fixture
def control_app(tmp_path: Path) -> FastAPI:
    """The application without a database: for what is answered before one is needed."""
    database = Database("postgresql+asyncpg://nobody@/nothing", DatabaseSettings())
    return create_control(
        database=database,
        objects=DirectoryStore(tmp_path),
        authenticator=Authenticator(database, PEPPER, SECURITY),
        settings=Sections(HttpSettings()),
    )


@pytest.fixture
async def control(database: Database, tmp_path: Path) -> AsyncIterator[Control]:
    http = HttpSettings(max_body_bytes=4096, max_upload_bytes=64 * 1024)
    async with running_control(database, tmp_path / "objects", http) as running:
        yield running
