"""Who may ask, for both HTTP applications."""

from foundry.config import Settings
from foundry.governance.identity.pepper import pepper_path, read_pepper
from foundry.governance.identity.service import Authenticator
from foundry.infra.database import Database


def open_authenticator(settings: Settings, database: Database) -> Authenticator:
    """Raises SetupError: the pepper is missing or unsafe."""
    security = settings.security
    pepper = read_pepper(pepper_path(settings.home, security.pepper_file))
    return Authenticator(database, pepper, security)
