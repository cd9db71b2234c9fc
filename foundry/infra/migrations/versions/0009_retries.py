"""When a job that failed may be tried again."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql("ALTER TABLE jobs ADD COLUMN retry_at timestamptz")


def downgrade() -> None:
    op.get_bind().exec_driver_sql("ALTER TABLE jobs DROP COLUMN retry_at")
