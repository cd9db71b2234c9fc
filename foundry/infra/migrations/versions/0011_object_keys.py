"""Rows by the object that they name: the collector of orphans asks for many keys at a time."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_INDEXES = {
    "ix_blobs_object_key": "blobs (object_key)",
    "ix_dataset_files_object_key": "dataset_files (object_key)",
    "ix_job_checkpoints_object_key": "job_checkpoints (object_key)",
    "ix_jobs_log_key": "jobs (log_key) WHERE log_key IS NOT NULL",
}


def upgrade() -> None:
    for name, on in _INDEXES.items():
        op.get_bind().exec_driver_sql(f"CREATE INDEX {name} ON {on}")


def downgrade() -> None:
    for name in _INDEXES:
        op.get_bind().exec_driver_sql(f"DROP INDEX {name}")
