"""Starts Ray Serve's HAProxy with a tightened configuration.

Ray renders the configuration from a template of its own before every start and reload: statistics
and metrics on every interface, an administration socket for everybody, no limit on slow clients.
None of that is a setting, but the program that it starts is: RAY_SERVE_HAPROXY_BINARY_PATH, which
each node's proxy reads from the environment of its `ray start`. So Ray starts this file, on a
laptop through a launcher that `foundry up` writes, on a cluster through `cluster_configs/haproxy`.
It needs nothing but the standard library, and becomes HAProxy when it is done.
"""

import os
import re
import stat
import sys
from pathlib import Path

# Its own copy: this file runs alone, as a script outside of the package.
_LOOPBACK = "127.0.0.1"
_MODULE = b'/infra/embedded/haproxy.py"'
# A request's head, or the part of its body that HAProxy holds (16 KiB), may not trickle in longer.
_REQUEST_S = 30
_LIMITS = f"    option http-buffer-request\n    timeout http-request {_REQUEST_S}s\n"
_SECTION = re.compile(r"^(?=(?:global|defaults|frontend|backend|listen)\b)", re.MULTILINE)
_ANY_ADDRESS = re.compile(r"^(\s*bind )\*?:(?=\S)", re.MULTILINE)


def harden(configuration: str) -> str:
    """Ray's configuration with its inner listeners on loopback and a limit on slow clients."""
    return "".join(_harden_section(section) for section in _SECTION.split(configuration))


def _harden_section(section: str) -> str:
    if section.startswith("global"):
        return section.replace(" mode 666 ", " mode 600 ")
    if section.startswith(("frontend prometheus", "listen stats")):
        return _ANY_ADDRESS.sub(rf"\g<1>{_LOOPBACK}:", section)
    if section.startswith("frontend http_frontend") and _LIMITS not in section:
        head, newline, rest = section.partition("\n")
        return head + newline + _LIMITS + rest
    return section


def write_launcher(folder: Path, haproxy: Path) -> Path:
    """The program that Ray is told is HAProxy."""
    path = folder / "haproxy"
    if haproxy == path:
        raise ValueError(f"{path} would start itself for ever")
    # Isolated and without site packages: this runs at every change of the routes.
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{__file__}" "{haproxy}" "$@"\n')
    path.chmod(stat.S_IRWXU)
    return path


def is_launcher(path: Path) -> bool:
    """Whether this file is a program that starts this module: `write_launcher`'s or a cluster's."""
    try:
        return os.access(path, os.X_OK) and _MODULE in path.read_bytes()
    except OSError:
        return False


def main(arguments: list[str]) -> None:
    haproxy, *options = arguments
    if "-f" in options:
        path = Path(options[options.index("-f") + 1])
        path.write_text(harden(path.read_text()))
    os.umask(0o077)
    os.execv(haproxy, [haproxy, *options])


if __name__ == "__main__":
    main(sys.argv[1:])
