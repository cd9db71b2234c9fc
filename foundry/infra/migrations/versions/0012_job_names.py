"""Jobs by the model that they are for: people ask for a job by its name."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        "CREATE INDEX ix_jobs_name ON jobs (tenant_id, project_id, name, id)"
    )


def downgrade() -> None:
    op.get_bind().exec_driver_sql("DROP INDEX ix_jobs_name")
