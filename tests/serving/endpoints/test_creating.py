"""An endpoint that is there already keeps its options, and says so; on a real PostgreSQL."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from foundry.catalog.registry.domain import VersionSpec
from foundry.errors import Conflict, InvalidConfiguration, InvalidRequest
from foundry.infra.answers import Answer
from foundry.infra.database import Database
from foundry.serving.endpoints.tables import Endpoint
from tests.catalog.registry.files import adapter_dir
from tests.serving.endpoints.cluster import run_endpoints
from tests.serving.endpoints.test_configuring import Studio

pytestmark = pytest.mark.postgres


@pytest.fixture
async def studio(database: Database, tmp_path: Path) -> Studio:
    made = Studio(database, tmp_path)
    await made.models()
    return made


async def with_adapter(studio: Studio, folder: Path, rank: int) -> str:
    base = await studio.desk.registry(lambda r: r.resolve("smol"))
    spec = VersionSpec(f"bot-{rank}", "adapter", "sft", base_version_id=base.id)
    made = await studio.desk.register(spec, adapter_dir(folder / f"rank-{rank}", rank=rank))
    return made.reference


async def test_the_same_options_are_no_conflict(studio: Studio) -> None:
    config: dict[str, object] = {"max_num_seqs": 3, "max_model_len": 64}
    endpoint, _ = await studio.call(lambda e: e.create("smol", config=config))
    alike: tuple[dict[str, object], ...] = ({}, {"max_num_seqs": 3}, config)
    for asked in alike:
        same, note = await studio.call(lambda e: e.create("smol", config=asked))  # noqa: B023
        assert same.id == endpoint.id
        assert note == "the endpoint smol exists already; it is CREATED"


async def test_other_options_are_a_conflict_that_says_what_changes_them(studio: Studio) -> None:
    await studio.call(lambda e: e.create("smol", config={"max_num_seqs": 3}))
    wanted: dict[str, object] = {"max_num_seqs": 5, "max_model_len": 64}
    with pytest.raises(Conflict) as raised:
        await studio.call(lambda e: e.create("smol", config=wanted))
    assert raised.value.message == (
        "the endpoint smol exists already, with max_model_len unset instead of 64, max_num_seqs 3 "
        'instead of 5: `echo \'{"max_model_len": 64, "max_num_seqs": 5}\' | foundry endpoints '
        "configure smol -` and `foundry deploy smol@0.1.0` change that"
    )


async def test_an_option_that_is_unset_follows_the_server(studio: Studio) -> None:
    await studio.call(lambda e: e.create("smol"))
    _, note = await studio.call(lambda e: e.create("smol", config={"max_lora_rank": 64}))
    assert note is not None


async def test_what_is_to_be_typed_is_one_word_to_a_shell(studio: Studio) -> None:
    kind = "nvidia-l4' $(id)"
    await studio.call(lambda e: e.create("smol"))
    with pytest.raises(Conflict) as raised:
        await studio.call(lambda e: e.create("smol", config={"resources": {"gpu_type": kind}}))
    command = raised.value.message.split("`")[1]
    document = shlex.split(command)[1]
    assert json.loads(document) == {"resources": {"gpu_type": kind}}


async def test_the_options_of_the_next_deploy_count(studio: Studio) -> None:
    endpoint, _ = await studio.call(
        lambda e: e.create("smol", name="second", config={"max_num_seqs": 3})
    )
    await studio.configure(endpoint.id, max_num_seqs=5)
    _, note = await studio.call(
        lambda e: e.create("smol", name="second", config={"max_num_seqs": 5})
    )
    assert note is not None
    with pytest.raises(Conflict, match=r"`foundry deploy smol@0\.1\.0 --name second`"):
        await studio.call(lambda e: e.create("smol", name="second", config={"max_num_seqs": 3}))


async def test_an_adapter_of_a_rank_that_is_not_served(studio: Studio, tmp_path: Path) -> None:
    large, huge = [await with_adapter(studio, tmp_path, rank) for rank in (65, 513)]
    with pytest.raises(InvalidRequest, match=r"create smol@0\.1\.0 --max-lora-rank 128`$"):
        await studio.call(lambda e: e.create(large))
    with pytest.raises(InvalidRequest, match=r"smol@0\.1\.0 --name second --max-lora-rank 128`$"):
        await studio.call(lambda e: e.create(large, name="second"))
    with pytest.raises(InvalidRequest, match="and no engine more than 512: train with rank 64 or"):
        await studio.call(lambda e: e.create(huge))
    endpoint, note = await studio.call(lambda e: e.create("bot", config={"max_lora_rank": 8}))
    assert note is None
    with pytest.raises(
        InvalidRequest, match=r'endpoint smol serves adapters up to rank 8: .*`echo .*rank": 128'
    ):
        await studio.call(lambda e: e.create(large))
    await studio.configure(endpoint.id, max_lora_rank=128)
    assert (await studio.call(lambda e: e.create(large)))[0].id == endpoint.id


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"max_lora_rank": 100}, "max_lora_rank 100 is none that an engine has"),
        ({"max_loras": 100}, "max_loras 100 is more than the 64"),
    ],
)
async def test_options_that_no_engine_takes(
    studio: Studio, config: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidConfiguration, match=says):
        await studio.call(lambda e: e.create("smol", config=config))


@pytest.mark.parametrize(
    ("wanted", "ignored"),
    [
        ({"performance_targets": {"max_latency_ms": 9}, "optimization_method": "MANUAL"}, "perf"),
        ({"workload": {"users": 1, "input": {"mean": 9}, "output": {"mean": 9}}}, "workload"),
        ({"policy": {"max_model_len": 64}}, "policy"),
    ],
)
async def test_what_only_a_search_reads_is_a_conflict(
    studio: Studio, wanted: dict[str, Any], ignored: str
) -> None:
    endpoint, _ = await studio.call(lambda e: e.create("smol"))
    with pytest.raises(Conflict, match=f"{ignored}.* would be ignored"):
        await studio.configure(endpoint.id, **wanted)


async def test_what_was_so_already_is_said(studio: Studio) -> None:
    endpoint, _ = await studio.call(lambda e: e.create("smol"))

    async def note_of(act: str, *args: Any) -> str | None:
        asked: Answer[Endpoint] = await studio.call(lambda e: getattr(e, act)(endpoint.id, *args))
        return asked.note

    assert (
        await note_of("stop") == "the endpoint smol was not deployed, so there is nothing to stop"
    )
    assert await note_of("deploy") is None
    assert await note_of("deploy") == "the endpoint smol is PENDING already"
    assert await note_of("scale", 1) == "the endpoint smol has replicas 1 already"
    assert await note_of("scale", 2) is None
    assert await note_of("scale", 2) == "the endpoint smol has replicas 2 already"
    assert await note_of("scale", 1) is None
    await run_endpoints(studio.database)
    assert await note_of("deploy") == "the endpoint smol is RUNNING already"
    assert await note_of("rollback", 1) == "revision 1 of the endpoint smol serves already"
    assert await note_of("stop") is None
    assert await note_of("stop") == "the endpoint smol is being stopped already"
    await run_endpoints(studio.database)
    assert await note_of("stop") == "the endpoint smol is stopped already"
    # A deploy of one that exists, and does change something, says nothing.
    _, note = await studio.call(lambda e: e.create("smol"))
    assert note is not None
    assert await note_of("deploy") is None
    assert await note_of("delete") is None
    assert await note_of("delete") == "the endpoint smol is being deleted already"
