"""Whether a running stack is the one that `foundry up` would start now."""

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import foundry
from foundry.config import Settings, environment_of, secret_variables

_PACKAGES = ("foundry", "serve_apps", "workflows")
_SUFFIXES = (".py", ".sql", ".toml", ".json")
# Packages of which no process of a stack runs anything but `foundry up`.
_OF_CLIENTS = ("foundry/cli", "foundry/sdk")
# What only clients read, and what `up` itself sets.
_NOT_THE_STACKS = ("FOUNDRY_CLIENT__", "FOUNDRY_BUDSIM_DATA", "FOUNDRY_STACK_ID")


def digest_stack(settings: Settings, key: bytes) -> dict[str, str]:
    """Digests of code and settings. Keyed, for the settings hold passwords and a file keeps it."""
    wanted = {
        name: value
        for name, value in environment_of(settings).items()
        if not name.startswith(_NOT_THE_STACKS)
    }
    secret = secret_variables(settings) & wanted.keys()
    return {
        "code": _digest_code(),
        "settings": _digest_under_key(key, json.dumps(wanted, sort_keys=True)),
        # One each, so that a changed one can be named.
        **{
            name: _digest_under_key(key, json.dumps([name, wanted[name]]))
            for name in sorted(secret)
        },
    }


def version_of(digests: Mapping[str, str]) -> str:
    """One short name of code and settings together, equal for equal ones."""
    together = json.dumps([digests.get("code"), digests.get("settings")])
    return hashlib.sha256(together.encode()).hexdigest()[:24]


def _digest_under_key(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def describe_changes(
    found: Mapping[str, str],
    wanted: Mapping[str, str],
    settings: Settings,
    running: Mapping[str, str],
) -> list[str]:
    """What differs between a running stack and the wanted one, in words; nothing: no restart.

    Args:
        found: digests of the running stack; empty: it was started before there were any.
        running: variables that its processes run with, without the secret ones.
    """
    if not found:
        return ["it was started by an earlier release"]
    said = []
    if found.get("code") != wanted["code"]:
        said.append("this checkout has changed")
    if found.get("settings") != wanted["settings"]:
        names = sorted(
            {*_list_changed_settings(settings, running), *_list_changed_secrets(found, wanted)}
        )
        # Another key than at the start changes every digest.
        said.append(f"changed settings: {', '.join(names) or 'a secret'}")
    return said


def _list_changed_secrets(found: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[str]:
    for name in found.keys() | wanted.keys():
        if name.startswith("FOUNDRY_") and found.get(name) != wanted.get(name):
            yield name


def _list_changed_settings(settings: Settings, running: Mapping[str, str]) -> Iterator[str]:
    wanted, secret = environment_of(settings), secret_variables(settings)
    for name in wanted.keys() | {name for name in running if name.startswith("FOUNDRY_")}:
        ours = not name.startswith(_NOT_THE_STACKS) and name not in secret
        if ours and wanted.get(name) != running.get(name):
            yield name


def _digest_code() -> str:
    digest = hashlib.sha256()
    root = Path(foundry.__file__).parents[1]
    for name in _list_sources(root):
        digest.update(name.encode() + b"\0")
        digest.update(hashlib.sha256((root / name).read_bytes()).digest())
    return digest.hexdigest()


def _list_sources(root: Path) -> Iterator[str]:
    clients = [root / package for package in _OF_CLIENTS]
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in _SUFFIXES and not any(map(path.is_relative_to, clients)):
                yield path.relative_to(root).as_posix()
