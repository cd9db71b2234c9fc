"""The client and the control plane's OpenAPI document agree."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foundry.config import DatabaseSettings, HttpSettings
from foundry.control.app import create_control
from foundry.governance.identity.service import Authenticator
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.sdk import (
    AsyncBudsim,
    AsyncEndpoints,
    AsyncFoundry,
    AsyncJobs,
    Audit,
    Datasets,
    Foundry,
    Keys,
    Models,
    Outcomes,
    SyncBudsim,
    SyncEndpoints,
    SyncJobs,
)
from foundry.sdk._transport import Call, Operation, Resource
from tests.control.client import PEPPER, SECURITY, Sections
from tests.sdk.answers import CONFIGURATION, VERSION_ID, WORKLOAD

RESOURCES: tuple[type[Resource[Any]], ...] = (
    Foundry,
    Models,
    Datasets,
    SyncJobs,
    SyncEndpoints,
    SyncBudsim,
    Outcomes,
    Keys,
    Audit,
)
SAMPLES: dict[str, Any] = {
    "source": b"{}",
    "config": None,
    "filename": "rows.jsonl",
    "versions": ["0.1.0", "0.2.0"],
    "expected_version_id": VERSION_ID,
    "deprecated": True,
    "split": "eval",
    "direction": "down",
    "number": 3,
    "on_sent": None,
    "revision": 3,
    "before": 1,
    "after": 2,
    "replicas": 2,
    "limit": 7,
    "workload": WORKLOAD,
    "cluster": None,
    "targets": None,
    "policy": None,
    "trace": None,
    "deployment": "deployment: {}",
    "configuration": CONFIGURATION,
    "configurations": [CONFIGURATION],
    "checkpoint_bytes": None,
    "prices": {"nvidia-l4": 0.7},
    "expected_version": 0,
    "load_test": None,
    "digest": "0" * 64,
    "cv": {"tpot/new GPU": 15.0},
    "site_cv": {"endpoint": (20.0, 15.0)},
    "recommendation_id": VERSION_ID,
    # Another reference than a whole id is looked up in the list.
    "job_id": VERSION_ID,
    "endpoint_id": VERSION_ID,
}


CONFIGS: dict[str, dict[str, Any]] = {
    "endpoints_configure": {"config": {"replicas": 2}},
    "jobs_submit_import": {"source": "bundled:smollm2-135m"},
}


def _operations(*resources: type[Resource[Any]]) -> Iterator[Operation[..., Any]]:
    for resource in resources:
        for _, member in inspect.getmembers(resource):
            if isinstance(member, Operation):
                yield member


def _sample(operation: Operation[..., Any]) -> Call[Any]:
    """The call with every parameter given, so that each query parameter shows."""
    parameters = list(inspect.signature(operation.build).parameters.values())[1:]
    given = {
        p.name: SAMPLES.get(p.name, "sample" if p.default in (None, p.empty) else p.default)
        for p in parameters
    }
    return operation.build(None, **given | CONFIGS.get(operation.operation_id, {}))


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """operationId → method, path pattern and names of the query parameters."""
    settings = DatabaseSettings.model_validate({"url": "postgresql+asyncpg:///none"})
    database = Database(settings.url.get_secret_value() if settings.url else "", settings)
    app = create_control(
        database=database,
        objects=DirectoryStore(Path(tmp_path_factory.mktemp("objects"))),
        authenticator=Authenticator(database, PEPPER, SECURITY),
        settings=Sections(HttpSettings()),
    )
    return {
        operation["operationId"]: {
            "method": method.upper(),
            "path": re.sub(r"\{[^}]+\}", "[^/]+", route),
            "query": {p["name"] for p in operation.get("parameters", []) if p["in"] == "query"},
            "required": {
                p["name"]
                for p in operation.get("parameters", [])
                if p["in"] == "query" and p.get("required")
            },
            "body": "requestBody" in operation,
        }
        for route, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    }


def test_every_operation_has_a_method(documented: dict[str, Any]) -> None:
    assert {operation.operation_id for operation in _operations(*RESOURCES)} == set(documented)


def test_every_method_fits_its_operation(documented: dict[str, Any]) -> None:
    for operation in _operations(*RESOURCES):
        call, wanted = _sample(operation), documented[operation.operation_id]
        assert call.method == wanted["method"], operation.operation_id
        assert re.fullmatch(wanted["path"], call.path), (call.path, wanted["path"])
        given = {name for name, value in call.query.items() if value is not None}
        assert given == wanted["query"], operation.operation_id
        assert (call.body is not None) == wanted["body"], operation.operation_id


def test_both_clients_have_the_same_operations() -> None:
    for one, other in (
        (Foundry, AsyncFoundry),
        (SyncJobs, AsyncJobs),
        (SyncEndpoints, AsyncEndpoints),
        (SyncBudsim, AsyncBudsim),
    ):
        names = [{o.operation_id for o in _operations(kind)} for kind in (one, other)]
        assert names[0] == names[1]
