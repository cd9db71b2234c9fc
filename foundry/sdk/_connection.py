"""Where the server is and which key to show it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from foundry.config import Settings
from foundry.errors import InvalidRequest, SetupError

URL_VARIABLE, KEY_VARIABLE = "FOUNDRY_CLIENT__URL", "FOUNDRY_CLIENT__API_KEY"
TIMEOUT_VARIABLE = "FOUNDRY_CLIENT__TIMEOUT_S"


@dataclass(frozen=True, slots=True)
class Connection:
    """A server, and who asks it.

    Attributes:
        key_origin: where the key came from, for a person; None: there is no key.
        empty_home: the FOUNDRY_HOME in which a stack was looked for and is none; None: there is
            one, or the server was named.
    """

    url: str
    api_key: str | None = field(repr=False)
    timeout_s: float
    key_origin: str | None = None
    empty_home: Path | None = None


def connection(
    settings: Settings,
    url: str | None = None,
    api_key: str | None = None,
    timeout_s: float | None = None,
) -> Connection:
    """What is given first, then the client's settings, then what `foundry up` has left.

    The local stack's key is never sent to another address.
    """
    if timeout_s is not None and not timeout_s > 0:
        raise InvalidRequest("timeout_s must be greater than 0", param="timeout_s")
    client = settings.client
    file = settings.home / "credentials.json"
    local_url, local_key = _read_credentials(file)
    empty_home = settings.home if not (url or client.url or local_url) else None
    local_url = (local_url or settings.base_url).rstrip("/")
    chosen = (url or client.url or local_url).rstrip("/").removesuffix("/v1")
    key, origin = api_key, "the argument api_key" if api_key else None
    if key is None and client.api_key is not None:
        key, origin = client.api_key.get_secret_value(), KEY_VARIABLE
    if key is None and local_key is not None and chosen in (local_url, settings.base_url):
        key, origin = local_key, str(file)
    return Connection(
        chosen, key, timeout_s or client.timeout_s, origin if key else None, empty_home
    )


def _read_credentials(file: Path) -> tuple[str | None, str | None]:
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
