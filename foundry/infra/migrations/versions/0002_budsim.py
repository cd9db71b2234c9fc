"""Recommendations, prices, predictions, and what an endpoint is to be configured with."""

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    script = Path(__file__).with_suffix(".sql").read_text()
    for statement in script.split("\n\n"):
        connection.exec_driver_sql(statement)


def downgrade() -> None:
    connection = op.get_bind()
    connection.exec_driver_sql(
        "DROP TABLE endpoint_predictions, probed_hardware, price_lists, recommendations"
    )
    connection.exec_driver_sql(
        "ALTER TABLE endpoints DROP COLUMN optimization, DROP COLUMN recommendation_id, "
        "DROP COLUMN next_config, DROP COLUMN previous_app_name"
    )
