"""Revisions as their owners see them, on a real PostgreSQL."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from foundry.catalog.registry.domain import VersionSpec
from foundry.errors import Conflict, InvalidConfiguration, NotFound, Unavailable
from foundry.governance.audit.service import AuditTrail
from foundry.infra.database import Database
from foundry.serving.endpoints.checking import EngineCheck, ModelShapes
from foundry.serving.endpoints.domain import EndpointState as S
from foundry.serving.endpoints.service import Endpoints, Routing
from foundry.serving.endpoints.tables import Endpoint
from foundry.serving.engine.hardware import Hardware, Node
from tests.catalog.registry.files import base_dir
from tests.serving.endpoints.cluster import run_endpoints
from tests.serving.endpoints.test_configuring import Studio
from tests.serving.recommendations.questions import LLAMA

pytestmark = pytest.mark.postgres


class LaptopHardware:
    """Two cores; `silent`: it does not answer."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent

    async def read_hardware(self) -> Hardware:
        if self._silent:
            raise Unavailable("Ray did not answer within 2 s")
        return Hardware((Node(2, 8),), (Node(2, 8),))


@pytest.fixture
async def studio(database: Database, tmp_path: Path) -> Studio:
    made = Studio(database, tmp_path)
    await made.models()
    return made


async def served(studio: Studio, *configs: Mapping[str, Any]) -> Endpoint:
    """An endpoint that ran each configuration in turn, and runs the last."""
    endpoint, _ = await studio.call(lambda e: e.create("smol", config=dict(configs[0])))
    await studio.deploy(endpoint.id)
    await run_endpoints(studio.database)
    for config in configs[1:]:
        await studio.configure(endpoint.id, optimization_method="MANUAL", **config)
        await studio.deploy(endpoint.id)
        await run_endpoints(studio.database)
    return await studio.call(lambda e: e.get(endpoint.id))


async def test_a_rollback_runs_an_earlier_configuration_as_a_new_revision(studio: Studio) -> None:
    endpoint = await served(studio, {"max_num_seqs": 3}, {"max_num_seqs": 5})
    asked, _ = await studio.call(lambda e: e.rollback(endpoint.id, 1))
    assert (asked.state, asked.serving_revision, asked.target_revision) == (S.UPDATING, 2, 3)
    assert asked.config == {"max_num_seqs": 5}
    await run_endpoints(studio.database)
    now = await studio.call(lambda e: e.get(endpoint.id))
    assert (now.state, now.serving_revision, now.config) == (S.RUNNING, 3, {"max_num_seqs": 3})
    listed = (await studio.call(lambda e: e.list_revisions(endpoint.id))).data
    assert [(each.number, each.config) for each in listed] == [
        (3, {"max_num_seqs": 3}),
        (2, {"max_num_seqs": 5}),
        (1, {"max_num_seqs": 3}),
    ]
    assert listed[0].config_digest == listed[2].config_digest != listed[1].config_digest


async def test_a_rollback_to_what_serves_ends_the_update(studio: Studio) -> None:
    endpoint = await served(studio, {"max_num_seqs": 3})
    await studio.configure(endpoint.id, optimization_method="MANUAL", max_num_seqs=9)
    assert (await studio.deploy(endpoint.id)).state == S.UPDATING
    back, _ = await studio.call(lambda e: e.rollback(endpoint.id, 1))
    assert (back.state, back.serving_revision, back.target_revision) == (S.RUNNING, 1, 1)
    page = await studio.call(lambda e: e.list_revisions(endpoint.id))
    assert [(each.number, each.desired) for each in page.data] == [(2, "removed"), (1, "running")]
    again, _ = await studio.call(lambda e: e.rollback(endpoint.id, 1))
    assert again.version == back.version


async def test_unknown_revisions_are_not_found_and_pages_go_on(studio: Studio) -> None:
    endpoint = await served(studio, {"max_num_seqs": 3}, {"max_num_seqs": 4}, {"max_num_seqs": 5})
    with pytest.raises(
        NotFound, match="smol has no revision 9: `foundry endpoints revisions smol`"
    ):
        await studio.call(lambda e: e.rollback(endpoint.id, 9))
    first = await studio.call(lambda e: e.list_revisions(endpoint.id, limit=2))
    assert [each.number for each in first.data] == [3, 2]
    rest = await studio.call(lambda e: e.list_revisions(endpoint.id, cursor=first.next_cursor))
    assert ([each.number for each in rest.data], rest.next_cursor) == ([1], None)
    found = await studio.call(lambda e: e.diff(endpoint.id, 1, 3))
    assert [(each.field, each.before, each.after) for each in found.changes] == [
        ("max_num_seqs", 3, 5)
    ]
    with pytest.raises(NotFound):
        await studio.call(lambda e: e.diff(endpoint.id, 1, 7))


async def test_scaling_lasts_over_the_next_deploy_and_is_audited(studio: Studio) -> None:
    endpoint = await served(studio, {"max_num_seqs": 3})
    scaled, _ = await studio.call(lambda e: e.scale(endpoint.id, 4))
    assert (scaled.state, scaled.serving_revision) == (S.RUNNING, 1)
    assert scaled.config == {"max_num_seqs": 3, "replicas": 4}
    async with studio.database.begin() as db:
        events = await AuditTrail(db, studio.caller, "").list_events(resource_id=str(endpoint.id))
    (event,) = [each for each in events.data if each.action == "endpoint.scale"]
    assert (event.before, event.after) == ({"replicas": 1}, {"replicas": 4})
    await studio.call(lambda e: e.stop(endpoint.id))
    cluster = await run_endpoints(studio.database)
    again = await studio.deploy(endpoint.id)
    await cluster.settle()
    assert cluster.engines.deployed == [(again.app_name, 4)]


async def test_an_endpoint_that_stops_is_neither_scaled_back_nor_rolled_back(
    studio: Studio,
) -> None:
    endpoint = await served(studio, {"max_num_seqs": 3})
    await studio.call(lambda e: e.stop(endpoint.id))
    with pytest.raises(Conflict, match="is STOPPING"):
        await studio.call(lambda e: e.rollback(endpoint.id, 1))
    await studio.call(lambda e: e.delete(endpoint.id))
    with pytest.raises(Conflict, match="is being deleted"):
        await studio.call(lambda e: e.scale(endpoint.id, 2))


async def test_two_endpoints_of_one_base_run_side_by_side(studio: Studio) -> None:
    first = await served(studio, {"max_num_seqs": 3})
    second, note = await studio.call(lambda e: e.create("smol", name="smol-b"))
    assert note is None
    again, note = await studio.call(lambda e: e.create("smol", name="smol-b"))
    assert (again.id, note) == (second.id, "the endpoint smol-b exists already; it is CREATED")
    # Without a name the base has its one endpoint, as before.
    assert (await studio.call(lambda e: e.create("bot")))[0].id == first.id
    second = await studio.deploy(second.id)
    assert (first.app_name[-3:], second.app_name[-3:]) == ("-r1", "-r2")
    routing = Routing(studio.database, max_model_len=256)
    # The adapter goes where its base runs.
    assert (await routing.resolve(studio.caller, "bot")).app_name == first.app_name
    await run_endpoints(studio.database)
    assert (await routing.resolve(studio.caller, "smol-b")).app_name == second.app_name
    await studio.call(lambda e: e.stop(first.id))
    fresh = Routing(studio.database, max_model_len=256)
    assert (await fresh.resolve(studio.caller, "bot")).app_name == second.app_name


async def test_every_reason_is_said_at_the_call_and_nothing_is_touched(studio: Studio) -> None:
    endpoint = await served(studio, {"max_num_seqs": 3})
    wrong: dict[str, Any] = {"runtime": "sglang", "quantization": "int4", "max_model_len": 4096}
    await studio.configure(endpoint.id, optimization_method="MANUAL", **wrong)
    with pytest.raises(InvalidConfiguration) as caught:
        await studio.deploy(endpoint.id)
    violations = caught.value.details["violations"]
    assert isinstance(violations, list)
    assert [each.split(":")[0] for each in violations] == [
        "engines here run vllm, not sglang",
        "no engine here quantises to int4 while it loads",
        "max_model_len 4096 is more than the model's context of 512",
    ]
    row = await studio.call(lambda e: e.get(endpoint.id))
    assert (row.state, row.target_revision, row.version) == (S.RUNNING, 1, endpoint.version)


@pytest.mark.parametrize("silent", [False, True])
async def test_what_the_cluster_lacks_is_said_at_the_call_if_it_answers(
    studio: Studio, silent: bool
) -> None:
    endpoint = await served(studio, {"max_num_seqs": 3})
    async with studio.database.begin() as db:
        audit = AuditTrail(db, studio.caller, "test")
        registry = studio.registry(db, audit)
        check = EngineCheck(hardware=LaptopHardware(silent=silent))
        endpoints = Endpoints(db, audit, studio.caller, registry, check=check)
        if silent:
            assert (await endpoints.scale(endpoint.id, 5)).row.config["replicas"] == 5
            return
        with pytest.raises(InvalidConfiguration, match=r"5 replicas of 0\.5 CPU cores"):
            await endpoints.scale(endpoint.id, 5)


async def test_a_model_that_cannot_be_cut_so_is_refused_with_every_reason(
    studio: Studio, tmp_path: Path
) -> None:
    folder = base_dir(tmp_path / "qwen")
    config = LLAMA | {"num_attention_heads": 14, "num_key_value_heads": 2, "hidden_size": 896}
    (folder / "config.json").write_text(json.dumps(config))
    await studio.desk.register(VersionSpec("qwen", "base", "import"), folder)
    wrong: dict[str, object] = {"tensor_parallel_size": 4, "max_model_len": 2**20}
    async with studio.database.begin() as db:
        audit = AuditTrail(db, studio.caller, "test")
        check = EngineCheck(shapes=ModelShapes(studio.desk.objects))
        registry = studio.registry(db, audit)
        endpoints = Endpoints(db, audit, studio.caller, registry, check=check)
        with pytest.raises(InvalidConfiguration) as refused:
            await endpoints.create("qwen", config=wrong)
        assert refused.value.details["violations"] == [
            "max_model_len 1048576 is more than the model's context of 8192: configure at most "
            "8192",
            "tensor_parallel_size 4 does not divide the model's 14 attention heads with 2 "
            "key-value heads: configure one of 1, 2, 14",
        ]
        _, note = await endpoints.create("qwen", config={"tensor_parallel_size": 2})
        assert note is None
