"""Versions of datasets can be deleted: the row stays, its objects go."""

from pathlib import Path

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_DOWN = (
    "DROP TRIGGER no_delete ON dataset_versions",
    "DROP TRIGGER immutable ON dataset_versions",
    "DROP FUNCTION keep_dataset_version()",
    # Without its tombstone a version is gone: the older schema knows no deleted ones.
    "DELETE FROM dataset_files USING dataset_versions v WHERE v.id = version_id "
    "AND v.deleted_at IS NOT NULL",
    "DELETE FROM dataset_versions WHERE deleted_at IS NOT NULL",
    "DROP INDEX ix_model_versions_dataset_version_id, ix_dataset_versions_uncollected, "
    "ix_dataset_versions_live, uq_dataset_versions_digest",
    "CREATE UNIQUE INDEX uq_dataset_versions_digest ON dataset_versions (dataset_id, digest)",
    "ALTER TABLE dataset_versions DROP COLUMN deleted_at, DROP COLUMN deleted_by, "
    "DROP COLUMN delete_reason, DROP COLUMN collected_at",
    "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON dataset_versions "
    "FOR EACH ROW EXECUTE FUNCTION refuse_change()",
)


def upgrade() -> None:
    script = Path(__file__).with_suffix(".sql").read_text()
    for statement in script.split("\n\n"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for statement in _DOWN:
        op.get_bind().exec_driver_sql(statement)
