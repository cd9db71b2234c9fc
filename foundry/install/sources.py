"""Where packages come from: the user's own configuration of pip and uv, honoured by uv."""

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

_SPLIT = ("find-links", "extra-index-url")
# pip's name of a setting to uv's variable. uv's own variables win where both are set.
_TO_UV = {
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "cert": "SSL_CERT_FILE",
}


def pip_configuration(pip: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    """pip's settings from its files and from PIP_*; the more specific one of each name.

    Args:
        pip: the command that runs pip.
    """
    result = subprocess.run(
        [*pip, "config", "list"], capture_output=True, text=True, env=dict(environment), check=False
    )
    found: dict[str, str] = {}
    # Ordered by precedence: files say `global.` or `install.`, variables `:env:.`.
    for prefix in ("global.", "install.", ":env:."):
        for line in result.stdout.splitlines():
            name, _, value = line.partition("=")
            if name.startswith(prefix):
                found[name.removeprefix(prefix)] = "".join(shlex.split(value))
    return found


def uv_environment(pip: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that make uv use what pip is configured to use."""
    added = {
        "UV_LINK_MODE": environment.get("UV_LINK_MODE", "hardlink"),
        "UV_NO_PROGRESS": "1",
        "UV_HTTP_TIMEOUT": environment.get("UV_HTTP_TIMEOUT", pip.get("default-timeout", "60")),
    }
    for name, variable in _TO_UV.items():
        value = pip.get(name, "").strip()
        if value and variable not in environment and not _own_index(variable, environment):
            # uv separates find-links by commas and indexes by spaces; pip both by white space.
            words = value.replace(",", " ").split() if name in _SPLIT else [value]
            added[variable] = ("," if name == "find-links" else " ").join(words)
    if "UV_INDEX" in added:
        # pip takes the best of all indexes, uv the first that knows the name; hashes keep it safe.
        added["UV_INDEX_STRATEGY"] = environment.get("UV_INDEX_STRATEGY", "unsafe-best-match")
    return added


def offline(pip: Mapping[str, str], environment: Mapping[str, str]) -> bool:
    """Whether the user forbids indexes, leaving the wheelhouse alone."""
    return pip.get("no-index", "").lower() in ("1", "true", "yes", "on") or (
        environment.get("UV_NO_INDEX", "") not in ("", "0", "false")
    )


def has_wheelhouse(environment: Mapping[str, str]) -> bool:
    return bool(environment.get("UV_FIND_LINKS"))


def venv_python(venv: Path) -> Path:
    return venv / "bin" / "python"


def _own_index(variable: str, environment: Mapping[str, str]) -> bool:
    """uv's older names of its index variables count as the user's choice, too."""
    older = {"UV_DEFAULT_INDEX": "UV_INDEX_URL", "UV_INDEX": "UV_EXTRA_INDEX_URL"}
    return older.get(variable, "") in environment
