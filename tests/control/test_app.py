"""The control plane over HTTP, against a real PostgreSQL."""

from pathlib import Path

import pytest

from tests.control.client import ROWS, Control, with_models

pytestmark = pytest.mark.postgres


async def test_keys_are_made_listed_and_revoked_at_once(control: Control) -> None:
    made = await control.client.post("/keys", json={"name": "ci", "role": "member"})
    assert made.status_code == 201
    secret = made.json()["key"]
    mine = {"authorization": f"Bearer {secret}"}
    assert (await control.client.get("/whoami", headers=mine)).json()["role"] == "member"
    listed = (await control.client.get("/keys")).json()["data"]
    assert made.json()["id"] in {row["id"] for row in listed}
    assert all("key" not in row and "hash" not in row for row in listed)
    revoked = await control.client.delete(f"/keys/{made.json()['id']}")
    assert revoked.status_code == 200
    assert (await control.client.get("/whoami", headers=mine)).status_code == 401
    states = {row["id"]: row["state"] for row in (await control.client.get("/keys")).json()["data"]}
    assert states[made.json()["id"]] == "revoked"
    again = await control.client.delete(f"/keys/{made.json()['id']}")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")


async def test_a_key_tells_what_it_may_do(control: Control) -> None:
    body = {"name": "looks", "role": "viewer"}
    first = (await control.client.post("/keys", json=body)).json()
    # Not `*:*`, which reads like an administrator's.
    assert first["scopes"] == first["permissions"]
    assert (first["limited"], first["namesakes"]) == (False, [])
    assert "jobs:read" in first["permissions"]
    assert "jobs:write" not in first["permissions"]
    assert first["state"] == "active"
    second = (await control.client.post("/keys", json=body | {"scopes": ["jobs:*"]})).json()
    assert (second["permissions"], second["limited"]) == (["jobs:read"], True)
    assert second["scopes"] == ["jobs:read"]
    assert second["namesakes"] == [first["id"]]
    mine = {"authorization": f"Bearer {first['key']}"}
    who = (await control.client.get("/whoami", headers=mine)).json()
    assert who["permissions"] == who["scopes"] == first["permissions"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"scopes": ["jobs:delete"]},
            "there is no permission 'jobs:delete': choose from audit:read",
        ),
        ({"role": "viewer", "scopes": ["inference:invoke"]}, "it takes the role member"),
        ({"expires_in_days": 0}, "expires_in_days must be at least 1"),
        ({"expires_in_days": 367}, "expires_in_days must be at most 366"),
        ({"name": "a\nb"}, "name: a name is one line of printable characters"),
    ],
)
async def test_a_key_that_would_mislead_is_refused(
    control: Control, change: dict[str, object], says: str
) -> None:
    answer = await control.client.post("/keys", json={"name": "ci", **change})
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


async def test_a_dataset_is_added_once(control: Control) -> None:
    first = await control.client.post(
        "/datasets/support/versions?filename=t.jsonl&eval_fraction=0.25", content=ROWS
    )
    assert first.status_code == 201, first.text
    body = first.json()
    assert body["reference"] == "support@1"
    assert body["train_rows"] + body["eval_rows"] == 40
    assert body["kind"] == "prompt_completion"
    again = await control.client.post(
        "/datasets/support/versions?filename=t.jsonl&eval_fraction=0.25", content=ROWS
    )
    assert again.status_code == 200
    assert again.json()["id"] == body["id"]
    got = await control.client.get("/datasets/support/versions/latest")
    assert got.json()["digest"] == body["digest"]
    rows = await control.client.get("/datasets/support/versions/1/rows?split=eval&limit=2")
    assert len(rows.json()["data"]) == 2


async def test_a_broken_row_is_named(control: Control) -> None:
    content = ROWS + b'{"prompt": "only"}\n'
    answer = await control.client.post("/datasets/d/versions?filename=t.jsonl", content=content)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "invalid_dataset"
    assert "row 41: completion: missing_field" in error["message"]
    assert error["details"]["errors"] == [
        {
            "row": 41,
            "path": "completion",
            "code": "missing_field",
            "message": "a prompt/completion row needs it",
        }
    ]
    assert (await control.client.get("/datasets")).json()["data"] == []


async def test_the_registry_reads_back_what_was_registered(
    control: Control, tmp_path: Path
) -> None:
    base, adapter = await with_models(control, tmp_path)
    models = (await control.client.get("/models")).json()["data"]
    assert [model["name"] for model in models] == ["smol", "support-bot"]
    version = (await control.client.get("/models/support-bot/versions/latest")).json()
    assert version["reference"] == "support-bot@0.1.0"
    assert version["base_version_id"] == str(base.id)
    assert version["lora_rank"] == 2
    lineage = (await control.client.get("/models/support-bot/versions/0.1.0/lineage")).json()
    assert {v["reference"] for v in lineage["versions"]} == {"smol@0.1.0", "support-bot@0.1.0"}
    assert [edge["relation"] for edge in lineage["edges"]] == ["base", "sft"]
    metrics = (await control.client.get("/models/support-bot/versions/0.1.0/metrics")).json()
    assert [(m["name"], m["value"]) for m in metrics["data"]] == [("eval_loss", 0.25)]
    files = (await control.client.get("/models/support-bot/versions/0.1.0/artifacts")).json()
    assert [f["path"] for f in files["data"]] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    compared = (await control.client.get("/models/support-bot/compare?versions=0.1.0")).json()
    assert compared["data"][0]["metrics"] == {"eval_loss": 0.25}
    assert compared["data"][0]["version"]["id"] == str(adapter.id)


async def test_aliases_move_by_compare_and_set(control: Control, tmp_path: Path) -> None:
    _, adapter = await with_models(control, tmp_path)
    path = "/models/support-bot/aliases/production"
    body = {"version": "0.1.0", "expected_version_id": None}
    made = await control.client.put(path, json=body)
    assert made.status_code == 200, made.text
    assert made.json()["protected"] is True
    stale = await control.client.put(path, json=body)
    assert stale.status_code == 409
    assert stale.json()["error"]["code"] == "alias_moved"
    assert stale.json()["error"]["details"]["current_version_id"] == str(adapter.id)
    detail = (await control.client.get("/models/support-bot")).json()
    assert detail["latest_version"] == "0.1.0"
    assert [alias["name"] for alias in detail["aliases"]] == ["production"]
    used = await control.client.delete("/models/support-bot/versions/0.1.0")
    assert (used.status_code, used.json()["error"]["code"]) == (409, "alias_in_use")
    gone = await control.client.delete(f"{path}?expected_version_id={adapter.id}")
    assert gone.status_code == 204
    assert (await control.client.delete("/models/support-bot/versions/0.1.0")).status_code == 204
    assert (await control.client.get("/models/support-bot")).json()["latest_version"] is None


async def test_a_job_is_submitted_once_and_pins_its_inputs(
    control: Control, tmp_path: Path
) -> None:
    await with_models(control, tmp_path)
    await control.client.post("/datasets/support/versions?filename=t.jsonl", content=ROWS)
    body = {
        "name": "bot",
        "base": "smol",
        "dataset": "support",
        "config": {"max_seq_len": 64, "max_steps": 2},
    }
    first = await control.client.post("/jobs/sft", json=body)
    assert first.status_code == 201, first.text
    assert first.json()["state"] == "QUEUED"
    assert first.json()["spec"]["base"] == "smol@0.1.0"
    assert first.json()["spec"]["dataset"] == "support@1"
    same = await control.client.post("/jobs/sft", json=body)
    assert (same.status_code, same.json()["id"]) == (200, first.json()["id"])
    forced = await control.client.post("/jobs/sft", json={**body, "force": True})
    assert forced.status_code == 201
    cancelled = await control.client.post(f"/jobs/{first.json()['id']}/cancel")
    assert cancelled.json()["state"] == "CANCELLED"
    resumed = await control.client.post(f"/jobs/{first.json()['id']}/resume")
    assert resumed.json()["state"] == "QUEUED"
    listed = (await control.client.get("/jobs?state=QUEUED&limit=1")).json()
    assert len(listed["data"]) == 1
    rest = (
        await control.client.get(f"/jobs?state=QUEUED&limit=1&cursor={listed['next_cursor']}")
    ).json()
    assert {listed["data"][0]["id"], rest["data"][0]["id"]} == {
        first.json()["id"],
        forced.json()["id"],
    }


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"base": "nope"}, 404, "the model nope does not exist"),
        ({"dataset": "nope@3"}, 404, "the dataset nope@3 does not exist"),
        ({"base": "support-bot"}, 400, "is an adapter"),
        ({"config": {"max_seq_len": 4096}}, 400, "reads 512 tokens at most"),
        ({"config": {"lr": -1}}, 400, "config.lr"),
        ({"config": {"leraning_rate": 1}}, 400, "is not a known field"),
        ({"name": "Bad Name"}, 400, "name"),
        ({"name": "smol"}, 409, "holds versions of kind base"),
    ],
)
async def test_a_job_that_cannot_run_is_refused_at_once(
    control: Control, tmp_path: Path, change: dict[str, object], status: int, says: str
) -> None:
    await with_models(control, tmp_path)
    await control.client.post("/datasets/support/versions?filename=t.jsonl", content=ROWS)
    body = {
        "name": "bot",
        "base": "smol",
        "dataset": "support",
        "config": {"max_seq_len": 64},
        **change,
    }
    answer = await control.client.post("/jobs/sft", json=body)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize("source", ["http://x/y", "/etc", "file:///a/../b", "bundled:other"])
async def test_an_import_from_elsewhere_is_refused(control: Control, source: str) -> None:
    answer = await control.client.post("/jobs/import", json={"name": "m", "source": source})
    assert answer.status_code == 400
    assert "cannot be imported" in answer.json()["error"]["message"]


async def test_an_import_is_queued(control: Control) -> None:
    body = {"name": "smollm2-135m", "source": "bundled:smollm2-135m"}
    answer = await control.client.post("/jobs/import", json=body)
    assert (answer.status_code, answer.json()["kind"]) == (201, "import")


async def test_an_adapter_gets_its_bases_endpoint(control: Control, tmp_path: Path) -> None:
    base, _ = await with_models(control, tmp_path)
    made = await control.client.post("/endpoints", json={"model": "support-bot", "deploy": True})
    assert made.status_code == 201, made.text
    endpoint = made.json()
    assert endpoint["model"] == "smol@0.1.0"
    assert endpoint["state"] == "PENDING"
    assert endpoint["app_name"] == f"engine-{base.digest[:24]}-r1"
    again = await control.client.post("/endpoints", json={"model": "smol"})
    assert (again.status_code, again.json()["id"]) == (200, endpoint["id"])
    used = await control.client.delete("/models/support-bot/versions/0.1.0")
    assert used.status_code == 204
    used = await control.client.delete("/models/smol/versions/0.1.0")
    assert (used.status_code, used.json()["error"]["code"]) == (409, "version_in_use")
    stopped = await control.client.post(f"/endpoints/{endpoint['id']}/stop")
    assert (stopped.status_code, stopped.json()["state"]) == (202, "STOPPING")
    (revision,) = (await control.client.get(f"/endpoints/{endpoint['id']}/revisions")).json()[
        "data"
    ]
    assert revision["deadline_at"] is None
    hastened = await control.client.post(f"/endpoints/{endpoint['id']}/stop?now=true")
    assert (hastened.status_code, hastened.json()["state"]) == (202, "STOPPING")
    (revision,) = (await control.client.get(f"/endpoints/{endpoint['id']}/revisions")).json()[
        "data"
    ]
    assert revision["deadline_at"] <= hastened.json()["updated_at"]
    deleted = await control.client.delete(f"/endpoints/{endpoint['id']}")
    assert deleted.json()["state"] == "DELETING"


async def test_an_endpoint_is_scaled_rolled_back_and_compared(
    control: Control, tmp_path: Path
) -> None:
    await with_models(control, tmp_path)
    body = {"model": "smol", "deploy": True, "config": {"max_num_seqs": 4}}
    endpoint = (await control.client.post("/endpoints", json=body)).json()
    assert (endpoint["serving_revision"], endpoint["target_revision"]) == (None, 1)
    where = f"/endpoints/{endpoint['id']}"
    scaled = await control.client.post(f"{where}/scale", json={"replicas": 2})
    assert (scaled.status_code, scaled.json()["config"]["replicas"]) == (202, 2)
    await control.client.put(
        f"{where}/config", json={"optimization_method": "MANUAL", "max_num_seqs": 8}
    )
    assert (await control.client.post(f"{where}/deploy")).json()["target_revision"] == 2
    back = await control.client.post(f"{where}/rollback", json={"revision": 1})
    assert (back.status_code, back.json()["target_revision"]) == (202, 3)
    listed = (await control.client.get(f"{where}/revisions")).json()
    assert [(each["number"], each["desired"]) for each in listed["data"]] == [
        (3, "running"),
        (2, "removed"),
        (1, "removed"),
    ]
    assert listed["data"][0]["config"] == {"max_num_seqs": 4, "replicas": 2}
    diff = await control.client.get(f"{where}/revisions/2/diff/3")
    assert diff.json() == {
        "before": 2,
        "after": 3,
        "changes": [
            {"field": "max_num_seqs", "before": 8, "after": 4},
            {"field": "replicas", "before": None, "after": 2},
        ],
    }
    refused = await control.client.post(f"{where}/rollback", json={"revision": 9})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
    wrong = {"optimization_method": "MANUAL", "runtime": "sglang", "quantization": "int4"}
    await control.client.put(f"{where}/config", json=wrong)
    answer = await control.client.post(f"{where}/deploy")
    assert answer.status_code == 422
    message = answer.json()["error"]["message"]
    assert "run vllm, not sglang" in message
    assert "checkpoint in int4" in message


async def test_every_mutation_leaves_an_audit_row(control: Control, tmp_path: Path) -> None:
    await with_models(control, tmp_path)
    answer = await control.client.put(
        "/models/support-bot/aliases/staging",
        json={"version": "latest", "expected_version_id": None, "reason": "release 4"},
    )
    events = (await control.client.get("/audit?resource_type=model_alias")).json()["data"]
    assert [(e["action"], e["reason"]) for e in events] == [("alias.set", "release 4")]
    assert events[0]["request_id"] == answer.headers["x-request-id"]
    actions = {e["action"] for e in (await control.client.get("/audit?limit=200")).json()["data"]}
    assert {"key.create", "model.create", "version.create", "alias.set"} <= actions


async def test_openapi_is_public_and_says_where_it_is_mounted(control: Control) -> None:
    answer = await control.client.get("/openapi.json", headers={"authorization": ""})
    assert answer.json()["servers"] == [{"url": "/api"}]
