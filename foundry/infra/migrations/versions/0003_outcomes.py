"""Measured windows, outcomes of predictions, corrections, fitted models and advice."""

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TABLES = (
    "budsim_advice, budsim_models, budsim_alarms, budsim_biases, prediction_outcomes, "
    "endpoint_windows"
)


def upgrade() -> None:
    connection = op.get_bind()
    script = Path(__file__).with_suffix(".sql").read_text()
    for statement in script.split("\n\n"):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    op.get_bind().exec_driver_sql(f"DROP TABLE {_TABLES}")
