"""A round may exchange the whole model instead of a fragment."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql("ALTER TABLE diloco_rounds ALTER COLUMN fragment DROP NOT NULL")


def downgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql("UPDATE diloco_rounds SET fragment = 0 WHERE fragment IS NULL")
    connection.exec_driver_sql("ALTER TABLE diloco_rounds ALTER COLUMN fragment SET NOT NULL")
