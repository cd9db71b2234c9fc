"""Revisions of endpoints, several endpoints of one base, and the supervisor's lease."""

import hashlib
import json
from pathlib import Path

from alembic import op
from sqlalchemy import text

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_DOWN = (
    "ALTER TABLE endpoints ADD COLUMN revision INTEGER, ADD COLUMN previous_app_name TEXT",
    "UPDATE endpoints SET revision = coalesce(serving_revision, target_revision, 0)",
    "UPDATE endpoints SET state = 'RUNNING' WHERE state = 'UPDATING'",
    # The older schema knows one endpoint of a base: the oldest stays.
    "UPDATE endpoints SET state = 'DELETED', desired = 'deleted' WHERE state <> 'DELETED' AND "
    "EXISTS (SELECT 1 FROM endpoints older WHERE older.tenant_id = endpoints.tenant_id AND "
    "older.model_version_id = endpoints.model_version_id AND older.state <> 'DELETED' "
    "AND older.id < endpoints.id)",
    "ALTER TABLE endpoints ALTER COLUMN revision SET NOT NULL, DROP COLUMN serving_revision, "
    "DROP COLUMN target_revision, DROP COLUMN fallback_revision, DROP COLUMN version",
    "DROP INDEX ix_endpoints_model",
    "CREATE UNIQUE INDEX uq_endpoints_model ON endpoints (tenant_id, model_version_id) "
    "WHERE state <> 'DELETED'",
    "DROP TABLE endpoint_revisions, supervisor_leases",
)


def upgrade() -> None:
    connection = op.get_bind()
    script = Path(__file__).with_suffix(".sql").read_text()
    for statement in script.split("\n\n"):
        connection.exec_driver_sql(statement)
    rows = connection.execute(
        text("SELECT endpoint_id, number, base_digest, config FROM endpoint_revisions")
    )
    for endpoint_id, number, base_digest, config in rows.all():
        # PostgreSQL's text of JSON is not canonical, so the digests are made here.
        connection.execute(
            text(
                "UPDATE endpoint_revisions SET config_digest = :digest "
                "WHERE endpoint_id = :endpoint_id AND number = :number"
            ),
            {
                "digest": _digest(base_digest, config),
                "endpoint_id": endpoint_id,
                "number": number,
            },
        )


def downgrade() -> None:
    connection = op.get_bind()
    for statement in _DOWN:
        connection.exec_driver_sql(statement)


def _digest(base_digest: str, config: object) -> str:
    known = json.loads(config) if isinstance(config, str) else config
    canonical = json.dumps(
        {"base": base_digest, "config": known}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()
