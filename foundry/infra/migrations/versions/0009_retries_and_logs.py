"""When a job that failed may be tried again, and how much of its log is archived."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Logs that were archived before are still in rows, so nothing of them counts as archived.

    The defaults stay: the release that still runs meanwhile knows nothing of these columns.
    """
    op.get_bind().exec_driver_sql(
        "ALTER TABLE jobs ADD COLUMN retry_at timestamptz, "
        "ADD COLUMN log_seq BIGINT NOT NULL DEFAULT 0, "
        "ADD COLUMN log_bytes BIGINT NOT NULL DEFAULT 0"
    )


def downgrade() -> None:
    """The rows of archived logs do not come back."""
    op.get_bind().exec_driver_sql(
        "ALTER TABLE jobs DROP COLUMN retry_at, DROP COLUMN log_seq, DROP COLUMN log_bytes"
    )
