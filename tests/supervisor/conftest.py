from pathlib import Path

import pytest

from foundry.infra.database import Database
from tests.serving.endpoints.test_configuring import Studio
from tests.supervisor.site import Site


@pytest.fixture
async def site(database: Database, tmp_path: Path) -> Site:
    studio = Studio(database, tmp_path)
    await studio.models()
    return Site(database, studio, await studio.deployed("smol"))
