"""Versions that are not deleted: a list of models counts them and finds the highest."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_NAME = "ix_model_versions_live"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        f"CREATE INDEX {_NAME} ON model_versions (model_id, major, minor, patch, pre_key) "
        "WHERE stage <> 'tombstoned'"
    )


def downgrade() -> None:
    op.get_bind().exec_driver_sql(f"DROP INDEX {_NAME}")
