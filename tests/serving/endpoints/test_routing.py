"""What a model's name reaches: the served context, and only the caller's project."""

from pathlib import Path

import pytest

from foundry.errors import NoHealthyUpstream
from foundry.infra.database import Database
from foundry.serving.endpoints.service import Routing
from tests.governance.identity.principals import principal
from tests.serving.endpoints.test_service import Floor

pytestmark = pytest.mark.postgres


@pytest.fixture
def floor(database: Database, tmp_path: Path) -> Floor:
    return Floor(database, tmp_path, principal())


@pytest.mark.parametrize(
    ("configured", "default", "served"),
    [(None, 256, 256), (None, 4096, 512), (64, 256, 64)],
)
async def test_the_context_is_what_the_engine_takes(
    floor: Floor, configured: int | None, default: int, served: int
) -> None:
    """The checkpoint reads 512 tokens."""
    await floor.models()
    config: dict[str, object] = {} if configured is None else {"max_model_len": configured}
    endpoint, _ = await floor.call(lambda e: e.create("smol", config=config))
    await floor.run(await floor.call(lambda e: e.deploy(endpoint.id)))
    routing = Routing(floor.database, max_model_len=default)
    listed = await routing.list_models(floor.caller)
    assert {model.id: model.context_length for model in listed} == {
        "smol": served,
        "bot": served,
        "bot@staging": served,
    }
    assert (await routing.resolve(floor.caller, "bot")).context_length == served


async def test_another_project_of_the_tenant_reaches_no_engine(floor: Floor) -> None:
    """It sees the tenant's registry, and not this project's endpoints."""
    await floor.models()
    await floor.run(await floor.deployed("smol"))
    colleague = principal(tenant_id=floor.caller.tenant_id)
    routing = Routing(floor.database, max_model_len=256)
    assert await routing.list_models(colleague) == []
    for name in ("smol", "smol@0.1.0", "bot@staging"):
        with pytest.raises(NoHealthyUpstream, match=r"smol@0\.1\.0 is not running"):
            await routing.resolve(colleague, name)
        assert (await routing.resolve(floor.caller, name)).app_name.startswith("engine-")
