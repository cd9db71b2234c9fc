"""The public surface of the control plane: a change here is a change for clients."""

from pathlib import Path

import pytest
from fastapi import APIRouter

from foundry.config import DatabaseSettings, HttpSettings
from foundry.control.app import create_control
from foundry.errors import SetupError
from foundry.governance.identity.domain import PERMISSIONS
from foundry.governance.identity.service import Authenticator
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.http.permissions import collect_permissions
from tests.control.client import PEPPER, SECURITY, Sections

OPERATIONS = """
DELETE /datasets/{name}                            datasets:write      datasets_delete
DELETE /datasets/{name}/versions/{number}          datasets:write      datasets_delete_version
DELETE /endpoints/{endpoint_id}                    endpoints:write     endpoints_delete
DELETE /keys/{key_id}                              keys:write          keys_revoke
DELETE /models/{name}                              registry:write      models_delete
DELETE /models/{name}/aliases/{alias}              registry:write      aliases_delete
DELETE /models/{name}/versions/{version}           registry:write      versions_delete
GET /audit                                         audit:read          audit_list
GET /budsim/advice                                 budsim:read         budsim_advice
GET /budsim/catalogue                              budsim:read         budsim_catalogue
GET /budsim/models                                 budsim:read         budsim_models
GET /budsim/outcomes                               budsim:read         budsim_outcomes
GET /budsim/recommendations                        budsim:read         budsim_recommendations
GET /budsim/recommendations/{recommendation_id}    budsim:read         budsim_recommendation
GET /budsim/recommendations/{recommendation_id}/pareto    budsim:read         budsim_pareto
GET /capabilities                                  capabilities:read   capabilities
GET /datasets                                      datasets:read       datasets_list
GET /datasets/{name}/versions                      datasets:read       datasets_versions
GET /datasets/{name}/versions/{number}             datasets:read       datasets_get
GET /datasets/{name}/versions/{number}/rows        datasets:read       datasets_rows
GET /endpoints                                     endpoints:read      endpoints_list
GET /endpoints/{endpoint_id}                       endpoints:read      endpoints_get
GET /endpoints/{endpoint_id}/revisions             endpoints:read      endpoints_revisions
GET /endpoints/{endpoint_id}/revisions/{before}/diff/{after} endpoints:read endpoints_diff
GET /health                                        public              health
GET /jobs                                          jobs:read           jobs_list
GET /jobs/{job_id}                                 jobs:read           jobs_get
GET /jobs/{job_id}/logs                            jobs:read           jobs_logs
GET /jobs/{job_id}/members                         jobs:read           jobs_members
GET /jobs/{job_id}/metrics                         jobs:read           jobs_metrics
GET /jobs/{job_id}/rounds                          jobs:read           jobs_rounds
GET /keys                                          keys:read           keys_list
GET /models                                        models:read         models_list
GET /models/{name}                                 models:read         models_get
GET /models/{name}/compare                         models:read         models_compare
GET /models/{name}/versions                        models:read         versions_list
GET /models/{name}/versions/{version}              models:read         versions_get
GET /models/{name}/versions/{version}/artifacts    models:read         versions_artifacts
GET /models/{name}/versions/{version}/lineage      models:read         versions_lineage
GET /models/{name}/versions/{version}/metrics      models:read         versions_metrics
GET /whoami                                        keys:read           identity_whoami
PATCH /models/{name}/versions/{version}            registry:write      versions_set_stage
POST /budsim/artifacts                             budsim:admin        budsim_upload_artifact
POST /budsim/models                                budsim:admin        budsim_register_model
POST /budsim/models/{version}/promote              budsim:admin        budsim_promote
POST /budsim/predict                               budsim:run          budsim_predict
POST /budsim/probe                                 budsim:admin        budsim_probe
POST /budsim/recalibrate                           budsim:admin        budsim_recalibrate
POST /budsim/recommendations                       budsim:run          budsim_recommend
POST /budsim/simulate                              budsim:run          budsim_simulate
POST /budsim/validate                              budsim:run          budsim_validate
POST /datasets/{name}/versions                     datasets:write      datasets_add
POST /endpoints                                    endpoints:write     endpoints_create
POST /endpoints/{endpoint_id}/deploy               endpoints:write     endpoints_deploy
POST /endpoints/{endpoint_id}/rollback             endpoints:write     endpoints_rollback
POST /endpoints/{endpoint_id}/scale                endpoints:write     endpoints_scale
POST /endpoints/{endpoint_id}/stop                 endpoints:write     endpoints_stop
POST /jobs/diloco                                  jobs:write          jobs_submit_diloco
POST /jobs/import                                  registry:import     jobs_submit_import
POST /jobs/sft                                     jobs:write          jobs_submit_sft
POST /jobs/{job_id}/cancel                         jobs:write          jobs_cancel
POST /jobs/{job_id}/resume                         jobs:write          jobs_resume
POST /keys                                         keys:write          keys_create
POST /models/{name}/aliases/{alias}/rollback       registry:write      aliases_rollback
PUT /budsim/prices                                 budsim:admin        budsim_set_prices
PUT /endpoints/{endpoint_id}/config                endpoints:write     endpoints_configure
PUT /models/{name}/aliases/{alias}                 registry:write      aliases_set
"""


def _database() -> Database:
    # Never connected: only the routes are looked at.
    return Database("postgresql+asyncpg://nobody@/nothing", DatabaseSettings())


def test_operations_and_permissions(tmp_path: Path) -> None:
    database = _database()
    app = create_control(
        database=database,
        objects=DirectoryStore(tmp_path),
        authenticator=Authenticator(database, PEPPER, SECURITY),
        settings=Sections(HttpSettings()),
    )
    permissions = collect_permissions(app, PERMISSIONS)
    found = sorted(
        (method.upper(), path, permissions[f"{method.upper()} {path}"], operation["operationId"])
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    )
    expected = [tuple(line.split()) for line in OPERATIONS.strip().splitlines()]
    assert found == expected


def test_a_route_without_a_permission_stops_the_start(tmp_path: Path) -> None:
    database = _database()
    app = create_control(
        database=database,
        objects=DirectoryStore(tmp_path),
        authenticator=Authenticator(database, PEPPER, SECURITY),
        settings=Sections(HttpSettings()),
    )
    router = APIRouter()
    router.add_api_route("/open", lambda: None)
    app.include_router(router)
    with pytest.raises(SetupError, match="/open declares no permission"):
        collect_permissions(app, PERMISSIONS)
