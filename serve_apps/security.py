"""Who may ask, for both HTTP applications."""

from collections.abc import Mapping

from foundry.config import Settings
from foundry.errors import SetupError
from foundry.governance.identity.pepper import pepper_path, read_pepper
from foundry.governance.identity.service import Authenticator
from foundry.infra.database import Database


def open_authenticator(settings: Settings, database: Database) -> Authenticator:
    """Raises SetupError: the pepper is missing or unsafe."""
    security = settings.security
    pepper = read_pepper(pepper_path(settings.home, security.pepper_file))
    return Authenticator(database, pepper, security)


def require_hardened(environment: Mapping[str, str]) -> None:
    """Raises SetupError: this cluster would run code for whoever reaches a replica's port."""
    if environment.get("RAY_AUTH_MODE") != "token":
        raise SetupError(
            "set RAY_AUTH_MODE=token on every node and here: a cluster without is open"
        )
    needed = ["RAY_AUTH_TOKEN_PATH"]
    if environment.get("RAY_USE_TLS") == "1":
        needed += ["RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"]
    if missing := [name for name in needed if not environment.get(name)]:
        raise SetupError(f"set {', '.join(missing)}: see cluster_configs/on-premises.env")
