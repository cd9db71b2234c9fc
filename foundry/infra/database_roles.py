"""Whom PostgreSQL knows: Foundry's processes by what they do, auditors, and the owner."""

from enum import StrEnum


class DatabaseRole(StrEnum):
    """Roles of Foundry's database; what each may do is in the migrations and in `roles.sql`."""

    ADMIN = "foundry"
    MIGRATE = "foundry_migrate"
    APP = "foundry_app"
    GATEWAY = "foundry_gateway"
    AUDIT_READER = "foundry_audit_reader"
