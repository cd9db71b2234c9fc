"""Settings to collaborators: used by entry points, never by services."""

from pathlib import Path

from foundry.config import Settings
from foundry.infra.database import Database
from foundry.infra.database_roles import DatabaseRole
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.embedded import postgres
from foundry.infra.objects import ObjectStore
from foundry.infra.s3_store import S3Store
from foundry.infra.weights import WeightCache


def database_url(settings: Settings, role: DatabaseRole = DatabaseRole.APP) -> str:
    """The external server's URL, or the embedded one's (which need not run).

    Args:
        role: whose rights are needed. An external server without a URL for it gives those of its
            application's.
    """
    database = settings.database
    if database.url is None:
        return postgres.build_url(settings.home, role)
    own = {
        DatabaseRole.MIGRATE: database.migration_url,
        DatabaseRole.GATEWAY: database.gateway_url,
    }.get(role)
    return (own or database.url).get_secret_value()


def open_database(settings: Settings, role: DatabaseRole = DatabaseRole.APP) -> Database:
    return Database(database_url(settings, role), settings.database)


def open_objects(settings: Settings) -> ObjectStore:
    if settings.objects.url is not None:
        return S3Store.from_settings(settings.objects)
    return DirectoryStore(settings.home / "objects")


def open_weights(settings: Settings) -> WeightCache:
    return WeightCache(open_objects(settings), cache_dir(settings))


def cache_dir(settings: Settings) -> Path:
    return settings.home / "cache"
