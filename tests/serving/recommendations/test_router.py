"""budsim over HTTP, against a real PostgreSQL; searches are scripted."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from foundry.catalog.registry.service import Registry
from foundry.errors import InvalidRequest
from foundry.governance.identity.domain import Role
from foundry.infra.database import Database
from tests.control.client import Control, new_key, running_control, with_models
from tests.serving.recommendations.questions import (
    CLUSTER,
    ENDPOINT_CONFIG,
    LLAMA,
    WORKLOAD,
    FakeSearcher,
    answer,
    body,
)

pytestmark = pytest.mark.postgres
L40S = "nvidia-l40s-48gb"


@pytest.fixture
def searcher() -> FakeSearcher:
    return FakeSearcher()


@pytest.fixture
async def control(
    database: Database, tmp_path: Path, searcher: FakeSearcher
) -> AsyncIterator[Control]:
    async with running_control(database, tmp_path / "objects", searcher=searcher) as running:
        yield running


async def _asked(control: Control, wait: int = 10, **fields: object) -> dict[str, Any]:
    path = f"/budsim/recommendations?wait={wait}"
    found = await control.client.post(path, json=body(**fields))
    assert found.status_code == 202, found.text
    document: dict[str, Any] = found.json()
    return document


async def test_a_recommendation_is_asked_waited_for_and_read_back(control: Control) -> None:
    made = await _asked(control, targets={"max_ttft_ms": 500})
    assert (made["state"], made["method"], made["result"]) == ("DONE", "REGRESSOR", answer())
    assert made["request"]["targets"]["max_ttft_ms"] == 500
    path = f"/budsim/recommendations/{made['id']}"
    assert (await control.client.get(path)).json() == made
    front = (await control.client.get(f"{path}/pareto")).json()["data"]
    assert [point["configuration"]["replicas"] for point in front] == [2, 3]
    assert (await _asked(control, targets={"max_ttft_ms": 500}))["id"] == made["id"]
    events = (await control.client.get("/audit?resource_type=recommendation")).json()["data"]
    assert [event["action"] for event in events] == ["recommendation.ask"]


async def test_a_registered_model_brings_its_own_configuration(
    control: Control, searcher: FakeSearcher, tmp_path: Path
) -> None:
    base, _ = await with_models(control, tmp_path)
    made = await _asked(control, config=None, model="support-bot")
    assert made["model"] == base.reference
    asked = searcher.asked[0]
    assert asked.config["architectures"] == ["LlamaForCausalLM"]
    assert asked.config["max_position_embeddings"] == 512
    assert asked.checkpoint_bytes == 195


@pytest.mark.parametrize("content", [b"[]", b"{"])
async def test_a_model_whose_configuration_is_no_object_is_refused(
    control: Control, tmp_path: Path, content: bytes
) -> None:
    base, _ = await with_models(control, tmp_path)
    async with control.database.begin() as db:
        registry = Registry(db, control.audit(db), control.principal)
        files = (await registry.manifest(base.id)).files
    (key,) = (file.object_key for file in files if file.path == "config.json")
    await control.objects.delete(key)
    await control.objects.put_bytes(key, content)
    path = "/budsim/recommendations"
    found = await control.client.post(path, json=body(config=None, model="smol"))
    assert (found.status_code, found.json()["error"]["code"]) == (400, "invalid_artifact")
    assert found.json()["error"]["message"] == (
        "smol@0.1.0 has no readable config.json: register it with one"
    )


async def test_pages_follow_each_other(control: Control) -> None:
    made = [await _asked(control, workload={**WORKLOAD, "users": users}) for users in (1, 2, 3)]
    first = (await control.client.get("/budsim/recommendations?limit=2")).json()
    assert [row["id"] for row in first["data"]] == [made[2]["id"], made[1]["id"]]
    rest = f"/budsim/recommendations?limit=2&cursor={first['next_cursor']}"
    last = (await control.client.get(rest)).json()
    assert ([row["id"] for row in last["data"]], last["next_cursor"]) == ([made[0]["id"]], None)


async def test_no_answer_yet_is_a_conflict_for_its_front(
    control: Control, searcher: FakeSearcher
) -> None:
    searcher.gate = asyncio.Event()
    made = await _asked(control, wait=0)
    assert made["state"] in ("PENDING", "RUNNING")
    front = await control.client.get(f"/budsim/recommendations/{made['id']}/pareto")
    assert front.status_code == 409
    searcher.gate.set()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cluster": None}, "this control plane sees no cluster"),
        ({"config": None}, "give model"),
        ({"workload": {**WORKLOAD, "rate": 3}}, "one only"),
        ({"targets": {"ttft": 3}}, "is not a known field"),
    ],
)
async def test_a_bad_question_is_a_400(
    control: Control, change: dict[str, object], says: str
) -> None:
    refused = await control.client.post("/budsim/recommendations", json=body(**change))
    assert refused.status_code == 400
    assert says in refused.json()["error"]["message"]


async def test_who_may_ask_and_who_may_set_prices(control: Control) -> None:
    async def status(role: Role, method: str, path: str, json: object) -> int:
        _, key = await new_key(control.database, control.principal, role)
        headers = {"authorization": f"Bearer {key}"}
        return (await control.client.request(method, path, json=json, headers=headers)).status_code

    ask, prices = "/budsim/recommendations", "/budsim/prices"
    change: dict[str, object] = {"prices": {L40S: 1.5}}
    assert await status(Role.VIEWER, "POST", ask, body()) == 403
    assert await status(Role.VIEWER, "GET", ask, None) == 200
    assert await status(Role.MEMBER, "POST", ask, body()) == 202
    assert await status(Role.MEMBER, "PUT", prices, change) == 403
    assert await status(Role.ADMIN, "PUT", prices, change) == 200


async def test_prices_are_versioned_audited_and_undone(control: Control) -> None:
    async def price() -> tuple[float | None, int]:
        found = (await control.client.get("/budsim/catalogue")).json()
        row = next(gpu for gpu in found["data"] if gpu["id"] == L40S)
        return row["price_per_hour"], found["price_version"]

    shipped, version = await price()
    assert version == 0
    made = await control.client.put("/budsim/prices", json={"prices": {"L40S": 1.5}})
    assert (made.json()["version"], made.json()["prices"]) == (1, {L40S: 1.5})
    assert await price() == (1.5, 1)
    stale = {"prices": {L40S: 2.0}, "expected_version": 0}
    refused = await control.client.put("/budsim/prices", json=stale)
    assert (refused.status_code, refused.json()["error"]["details"]) == (
        409,
        {"current_version": 1},
    )
    undone = await control.client.put("/budsim/prices", json={"prices": {L40S: None}})
    assert (undone.json()["version"], undone.json()["prices"]) == (2, {})
    assert await price() == (shipped, 2)
    events = (await control.client.get("/audit?resource_type=prices")).json()["data"]
    assert [(event["before"], event["after"]) for event in events] == [
        ({L40S: 1.5}, {}),
        ({}, {L40S: 1.5}),
    ]
    for wrong in ({"nvidia-l41": 1.0}, {L40S: -1.0}, {L40S: 0}):
        bad = await control.client.put("/budsim/prices", json={"prices": wrong})
        assert bad.status_code == 400, wrong


async def test_what_if_is_answered_in_one_call(control: Control) -> None:
    asked = {
        "config": LLAMA,
        "workload": WORKLOAD,
        "configurations": [{"gpu": L40S, "replicas": count} for count in (1, 2)],
    }
    found = await control.client.post("/budsim/predict", json=asked)
    assert found.status_code == 200, found.text
    one, two = found.json()["data"]
    assert two["cost_per_hour"] == pytest.approx(2 * one["cost_per_hour"])
    many = {**asked, "configurations": [{"gpu": L40S}] * 10_001}
    refused = await control.client.post("/budsim/predict", json=many)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "configurations")
    unknown = {**asked, "configurations": [{"gpu": "nvidia-l41"}]}
    refused = await control.client.post("/budsim/predict", json=unknown)
    assert refused.status_code == 400
    assert "nvidia-l41" in refused.json()["error"]["message"]


async def test_a_manual_configuration_is_checked_rule_by_rule(control: Control) -> None:
    def asked(config: dict[str, object], gpu: str = L40S) -> dict[str, object]:
        deployment = {"deployment": {"config": config, "resources": {"gpu_type": gpu}}}
        return {**body(), "deployment": deployment}

    good = await control.client.post("/budsim/validate", json=asked({"max_num_seqs": 16}))
    assert good.status_code == 200, good.text
    assert good.json()["configuration"]["max_num_seqs"] == 16
    bad = await control.client.post("/budsim/validate", json=asked({"max_num_seqs": 0}, "x"))
    assert bad.status_code == 422
    error = bad.json()["error"]
    assert error["code"] == "invalid_configuration"
    assert {one["path"] for one in error["details"]["violations"]} == {
        "$.deployment.config.max_num_seqs",
        "$.deployment.resources.gpu_type",
    }


async def test_a_trace_is_replayed(control: Control) -> None:
    trace = [{"arrival_s": i / 4, "input_tokens": 200, "output_tokens": 20} for i in range(40)]
    asked = {"config": LLAMA, "configuration": {"gpu": L40S}, "trace": trace}
    found = await control.client.post("/budsim/simulate", json=asked)
    assert found.status_code == 200, found.text
    data = found.json()["data"]
    assert (data["requests"], data["output_tokens"], data["rejected"]) == (40, 800, 0)
    assert data["percentiles"]["ttft_ms"]["p50"] <= data["percentiles"]["ttft_ms"]["p99"]


async def test_a_manual_deployment_is_predicted_and_deployed(
    control: Control, tmp_path: Path
) -> None:
    endpoint = await _endpoint(control, tmp_path)
    asked = {"optimization_method": "MANUAL", "replicas": 3, "max_model_len": 256}
    put = await control.client.put(f"/endpoints/{endpoint}/config", json=asked)
    assert put.json()["next_config"] == {"replicas": 3, "max_model_len": 256}
    deployed = await control.client.post(f"/endpoints/{endpoint}/deploy")
    assert deployed.json()["config"] == {"replicas": 3, "max_model_len": 256}


async def _endpoint(control: Control, folder: Path) -> str:
    await with_models(control, folder)
    made = await control.client.post("/endpoints", json={"model": "smol"})
    return str(made.json()["id"])


async def test_targets_are_searched_reviewed_and_deployed(
    control: Control, tmp_path: Path, searcher: FakeSearcher
) -> None:
    endpoint = await _endpoint(control, tmp_path)
    targets = {"max_ttft_ms": 500, "max_latency_ms": 9000}
    asked = {
        "optimization_method": "REGRESSOR",
        "performance_targets": targets,
        "workload": WORKLOAD,
        "cluster": CLUSTER,
        "max_loras": 2,
    }
    put = await control.client.put(f"/endpoints/{endpoint}/config", json=asked)
    assert put.status_code == 200, put.text
    configured = put.json()
    assert (configured["state"], configured["config"]) == ("CONFIGURED", {})
    found = await control.client.get(
        f"/budsim/recommendations/{configured['recommendation_id']}?wait=10"
    )
    assert found.json()["state"] == "DONE"
    assert searcher.asked[0].request.targets.max_latency_ms == 9000
    review = f"?recommendation_id={configured['recommendation_id']}"
    deployed = (await control.client.post(f"/endpoints/{endpoint}/deploy{review}")).json()
    assert deployed["config"] == {**ENDPOINT_CONFIG, "max_loras": 2}
    assert (deployed["recommendation_id"], deployed["next_config"]) == (None, None)
    assert (deployed["config_generation"], deployed["revision"]) == (2, 1)


async def test_a_refused_search_refuses_the_deploy(
    control: Control, tmp_path: Path, searcher: FakeSearcher
) -> None:
    searcher.fault = InvalidRequest("requests exceed the model's 512 tokens")
    endpoint = await _endpoint(control, tmp_path)
    asked = {"performance_targets": {}, "workload": WORKLOAD, "cluster": CLUSTER}
    put = await control.client.put(f"/endpoints/{endpoint}/config", json=asked)
    await control.client.get(f"/budsim/recommendations/{put.json()['recommendation_id']}?wait=10")
    refused = await control.client.post(f"/endpoints/{endpoint}/deploy")
    assert refused.status_code == 409
    assert (
        "exceed the model's 512 tokens; configure smol again"
        in (refused.json()["error"]["message"])
    )


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"optimization_method": "REGRESSOR"}, "workload: what is smol to carry"),
        ({"performance_targets": {}, "replicas": 3}, "replicas: REGRESSOR finds it"),
        ({"optimization_method": "PRIOR", "deployment": "x"}, "goes with optimization_method"),
        ({"optimization_method": "MANUAL", "deployment": "x", "replicas": 2}, "not both"),
        ({"optimization_method": "MANUAL", "deployment": "x"}, "workload: a deployment"),
        ({"replicas": 0}, "replicas"),
    ],
)
async def test_a_configuration_that_says_two_things_is_refused(
    control: Control, tmp_path: Path, asked: dict[str, object], says: str
) -> None:
    endpoint = await _endpoint(control, tmp_path)
    refused = await control.client.put(f"/endpoints/{endpoint}/config", json=asked)
    assert refused.status_code == 400
    assert says in refused.json()["error"]["message"]


async def test_a_question_that_no_search_can_answer_is_refused_at_once(
    control: Control, searcher: FakeSearcher
) -> None:
    for wrong, says in (
        ({"cluster": {"groups": [{"gpu": "gpu9", "gpus_per_node": 1}]}}, "no accelerator 'gpu9'"),
        ({"workload": {**WORKLOAD, "input": {"mean": 9, "p50": 9, "p95": 5}}}, "p50 is above p95"),
    ):
        found = await control.client.post("/budsim/recommendations", json=body(**wrong))
        assert found.status_code == 400
        assert says in found.json()["error"]["message"]
    assert searcher.asked == []
    assert (await control.client.get("/budsim/recommendations")).json()["data"] == []
