"""What a model's name reaches: the served context, and only the caller's project."""

from pathlib import Path

import pytest

from foundry.catalog.registry.domain import adapter_uid
from foundry.errors import ModelNotFound, NoHealthyUpstream
from foundry.infra.database import Database
from foundry.serving.endpoints.domain import EndpointState, Target
from foundry.serving.endpoints.service import Routing
from tests.fakes.cluster import FakeEngines
from tests.governance.identity.principals import principal
from tests.serving.endpoints.cluster import Cluster
from tests.serving.endpoints.test_service import Floor

S = EndpointState
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
    await floor.run((await floor.call(lambda e: e.deploy(endpoint.id))).row)
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


async def test_names_reach_the_engine_of_their_base(floor: Floor) -> None:
    base, bot = await floor.models()
    endpoint = await floor.deployed("bot")
    await floor.run(endpoint)
    routing = Routing(floor.database, max_model_len=256)
    uid = adapter_uid(base.digest, bot.digest)
    for name in ("bot", "bot@staging", "bot@0.1.0", "bot@latest"):
        target = await routing.resolve(floor.caller, name)
        assert target == Target(
            endpoint_id=endpoint.id,
            model_version_id=bot.id,
            model_name="bot",
            version="0.1.0",
            adapter_uid=uid,
            base_version_id=base.id,
            app_name=f"engine-{base.digest[:24]}-r1",
            context_length=256,
            reference=name,
            revision=endpoint.revision,
        )
    plain = await routing.resolve(floor.caller, "smol")
    assert (plain.adapter_uid, plain.model_version_id) == (None, base.id)
    listed = await routing.list_models(floor.caller)
    assert [(m.id, m.parent) for m in listed] == [
        ("bot", "smol"),
        ("bot@staging", "smol"),
        ("smol", None),
    ]


async def test_errors_say_what_to_do(floor: Floor) -> None:
    await floor.models()
    routing = Routing(floor.database, max_model_len=256)
    for name in ("nope", "bot@nope", "bot@9.9.9", "meta-llama/Llama-3", "", "x\0"):
        with pytest.raises(ModelNotFound):
            await routing.resolve(floor.caller, name)
    with pytest.raises(NoHealthyUpstream, match=r"smol@0\.1\.0 is not running: `foundry deploy"):
        await routing.resolve(floor.caller, "bot")
    endpoint = await floor.deployed("smol")
    with pytest.raises(NoHealthyUpstream, match=r"is starting \(PENDING\)"):
        await routing.resolve(floor.caller, "bot")
    cluster = Cluster(floor.database, FakeEngines(comes_up="running", fault="no free GPU"))
    await cluster.settle()
    assert (await floor.call(lambda e: e.get(endpoint.id))).state == S.FAILED
    with pytest.raises(NoHealthyUpstream, match="no free GPU"):
        await routing.resolve(floor.caller, "bot")
    assert await routing.list_models(floor.caller) == []


async def test_answers_are_remembered_for_a_second_at_most(floor: Floor) -> None:
    await floor.models()
    endpoint = await floor.deployed("smol")
    await floor.run(endpoint)
    now = 100.0
    routing = Routing(floor.database, max_model_len=256, clock=lambda: now)
    target = await routing.resolve(floor.caller, "smol")
    await floor.call(lambda e: e.stop(endpoint.id))
    now = 100.9
    assert await routing.resolve(floor.caller, "smol") == target
    now = 101.0
    with pytest.raises(NoHealthyUpstream):
        await routing.resolve(floor.caller, "smol")


async def test_other_tenants_find_nothing(floor: Floor) -> None:
    await floor.models()
    endpoint = await floor.deployed("smol")
    await floor.run(endpoint)
    routing, stranger = Routing(floor.database, max_model_len=256), principal()
    await routing.resolve(floor.caller, "smol")
    with pytest.raises(ModelNotFound):
        await routing.resolve(stranger, "smol")
    assert await routing.list_models(stranger) == []
