"""The gateway adds nothing to the audit: it changes nothing that the audit records."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# A server whose administrator has not made the roles keeps its one role: see 0008.
_IF_IT_EXISTS = """
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'foundry_gateway') THEN
        {statement};
    END IF;
END $$
"""


def upgrade() -> None:
    revoke = "REVOKE INSERT ON audit_events FROM foundry_gateway"
    op.get_bind().exec_driver_sql(_IF_IT_EXISTS.format(statement=revoke))


def downgrade() -> None:
    grant = "GRANT INSERT ON audit_events TO foundry_gateway"
    op.get_bind().exec_driver_sql(_IF_IT_EXISTS.format(statement=grant))
