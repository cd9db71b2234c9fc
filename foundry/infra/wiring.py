"""Settings to collaborators: used by entry points, never by services."""

from pathlib import Path

from foundry.config import Settings
from foundry.infra.database import Database
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.embedded import postgres
from foundry.infra.objects import ObjectStore
from foundry.infra.s3_store import S3Store
from foundry.infra.weights import WeightCache


def database_url(settings: Settings) -> str:
    """The external server's URL, or the embedded one's (which need not run)."""
    if settings.database.url is not None:
        return settings.database.url.get_secret_value()
    return postgres.url(settings.home)


def open_database(settings: Settings) -> Database:
    return Database(database_url(settings), settings.database)


def open_objects(settings: Settings) -> ObjectStore:
    if settings.objects.url is not None:
        return S3Store.from_settings(settings.objects)
    return DirectoryStore(settings.home / "objects")


def open_weights(settings: Settings) -> WeightCache:
    return WeightCache(open_objects(settings), cache_dir(settings))


def cache_dir(settings: Settings) -> Path:
    return settings.home / "cache"
