"""Attempts that are admitted, watched and counted; checkpoints of every kind of training."""

from pathlib import Path

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_COLUMNS = (
    "priority",
    "needs",
    "waiting_for",
    "failures",
    "submitted_at",
    "cancel_requested_at",
    "phase",
    "progress_at",
    "progress_allowance_s",
    "log_key",
    "collected_at",
)


def upgrade() -> None:
    connection = op.get_bind()
    script = Path(__file__).with_suffix(".sql").read_text()
    for statement in script.split("\n\n"):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql("DROP INDEX ix_blobs_unused")
    connection.exec_driver_sql("UPDATE blobs SET state = 'deleting' WHERE state = 'deleted'")
    connection.exec_driver_sql("ALTER TABLE blobs DROP CONSTRAINT ck_blobs_state")
    connection.exec_driver_sql(
        "ALTER TABLE blobs ADD CONSTRAINT ck_blobs_state CHECK (state IN ('live', 'deleting'))"
    )
    connection.exec_driver_sql("DROP TABLE job_checkpoints")
    connection.exec_driver_sql("DROP INDEX ix_jobs_queue, ix_jobs_uncollected")
    dropped = ", ".join(f"DROP COLUMN {name}" for name in _COLUMNS)
    connection.exec_driver_sql(f"ALTER TABLE jobs {dropped}")
