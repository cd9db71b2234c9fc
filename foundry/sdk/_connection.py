"""Where the server is and which key to show it."""

import json
from dataclasses import dataclass
from pathlib import Path

from foundry.config import Settings
from foundry.errors import SetupError


@dataclass(frozen=True, slots=True)
class Connection:
    url: str
    api_key: str | None
    timeout_s: float


def connection(
    settings: Settings,
    url: str | None = None,
    api_key: str | None = None,
    timeout_s: float | None = None,
) -> Connection:
    """What is given first, then the client's settings, then what `foundry up` has left.

    The local stack's key is never sent to another address.
    """
    client = settings.client
    local_url, local_key = _credentials(settings.home)
    local_url = (local_url or settings.base_url).rstrip("/")
    chosen = (url or client.url or local_url).rstrip("/").removesuffix("/v1")
    key = api_key or (client.api_key.get_secret_value() if client.api_key else None)
    if key is None and chosen in (local_url, settings.base_url):
        key = local_key
    return Connection(chosen, key, timeout_s or client.timeout_s)


def _credentials(home: Path) -> tuple[str | None, str | None]:
    file = home / "credentials.json"
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError) as error:
        raise SetupError(f"{file} cannot be read; `foundry up` writes it anew") from error
    if not isinstance(document, dict):
        raise SetupError(f"{file} holds no credentials; `foundry up` writes it anew")
    url, key = document.get("url"), document.get("api_key")
    return (
        url if isinstance(url, str) else None,
        key if isinstance(key, str) else None,
    )
