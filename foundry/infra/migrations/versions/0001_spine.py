"""Identity, audit, registry, datasets, jobs, endpoints."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TABLES = (
    "endpoints, job_logs, job_metrics, jobs, dataset_files, dataset_versions, datasets, "
    "version_metrics, alias_events, model_aliases, version_files, blobs, version_parents, "
    "model_versions, models, audit_events, api_keys, projects, tenants"
)


def upgrade() -> None:
    connection = op.get_bind()
    script = Path(__file__).with_suffix(".sql").read_text()
    for statement in script.split("\n\n"):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql(f"DROP TABLE {_TABLES}")
    connection.exec_driver_sql("DROP FUNCTION refuse_change()")
    connection.exec_driver_sql("DROP FUNCTION keep_version()")
