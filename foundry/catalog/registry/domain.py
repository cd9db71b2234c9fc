"""Versions, references, stages, manifests."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal, Self
from uuid import UUID

from foundry.errors import InvalidRequest
from foundry.infra.objects import FileRef

MAX_PART = 2_147_483_647
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,127}$"
ALIAS_PATTERN = r"^[a-z][a-z0-9_-]{0,62}$"
LATEST = "latest"
# Moving these needs the permission registry:promote.
PROTECTED_ALIASES = frozenset({"production"})

Bump = Literal["major", "minor", "patch"]
Kind = Literal["base", "adapter", "merged"]
Relation = Literal[
    "import", "sft", "dpo", "rl", "diloco", "distill", "quantize", "merge", "convert", "retrain"
]

_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_SEMVER = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)"
    rf"(?:-({_IDENTIFIERS}))?(?:\+({_IDENTIFIERS}))?"
)
_NAME = re.compile(NAME_PATTERN.removesuffix("$"))
_ALIAS = re.compile(ALIAS_PATTERN.removesuffix("$"))
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")
_MAX_NAME_CHARS = 128
_HUB_PREFIX = "models--"
# `pre_key` spends two digits on the length of a numeric identifier.
_MAX_VERSION_CHARS = 99
_RELEASE_KEY = "~"


class Stage(StrEnum):
    UPLOADING = "uploading"
    SCANNING = "scanning"
    READY = "ready"
    QUARANTINED = "quarantined"
    DEPRECATED = "deprecated"
    TOMBSTONED = "tombstoned"


TRANSITIONS: dict[Stage, frozenset[Stage]] = {
    Stage.UPLOADING: frozenset({Stage.SCANNING}),
    Stage.SCANNING: frozenset({Stage.READY, Stage.QUARANTINED}),
    Stage.QUARANTINED: frozenset({Stage.SCANNING, Stage.TOMBSTONED}),
    Stage.READY: frozenset({Stage.DEPRECATED, Stage.QUARANTINED, Stage.TOMBSTONED}),
    Stage.DEPRECATED: frozenset({Stage.READY, Stage.TOMBSTONED}),
    Stage.TOMBSTONED: frozenset(),
}
# What may be loaded: a deprecated version still answers those who pinned it.
USABLE = frozenset({Stage.READY, Stage.DEPRECATED})


@dataclass(frozen=True, slots=True)
class Version:
    """A Semantic Version 2.0.0. `build` is kept and never compared."""

    major: int
    minor: int
    patch: int
    pre: str = ""
    build: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a version number such as `1.2.0-rc.1`. Raises InvalidRequest."""
        match = _SEMVER.fullmatch(text) if len(text) <= _MAX_VERSION_CHARS else None
        if match is None or _has_leading_zero(match.group(4)):
            raise InvalidRequest(
                f"{text!r} is not a version: use MAJOR.MINOR.PATCH[-pre], like 1.4.0 or 2.0.0-rc.1",
                param="version",
            )
        major, minor, patch = (int(part) for part in match.group(1, 2, 3))
        if max(major, minor, patch) > MAX_PART:
            raise InvalidRequest(f"a part of {text!r} exceeds {MAX_PART}", param="version")
        return cls(major, minor, patch, match.group(4) or "", match.group(5) or "")

    def __str__(self) -> str:
        pre = f"-{self.pre}" if self.pre else ""
        build = f"+{self.build}" if self.build else ""
        return f"{self.major}.{self.minor}.{self.patch}{pre}{build}"

    @property
    def pre_key(self) -> str:
        """Text whose bytewise order is the precedence of the pre-release part.

        A release sorts last (`~`); numeric identifiers sort by value and below alphanumeric ones.
        """
        if not self.pre:
            return _RELEASE_KEY
        return "".join(_identifier_key(part) for part in self.pre.split("."))

    @property
    def sort_key(self) -> tuple[int, int, int, str]:
        return (self.major, self.minor, self.patch, self.pre_key)

    def __lt__(self, other: "Version") -> bool:
        return self.sort_key < other.sort_key

    def bump(self, part: Bump) -> "Version":
        """The next release; a pre-release of exactly that one becomes it (2.0.0-rc.1 → 2.0.0)."""
        release = replace(self, pre="", build="")
        if part == "patch":
            return release if self.pre else replace(release, patch=_next(self.patch))
        if part == "minor":
            if self.pre and self.patch == 0:
                return release
            return Version(self.major, _next(self.minor), 0)
        if self.pre and (self.minor, self.patch) == (0, 0):
            return release
        return Version(_next(self.major), 0, 0)


FIRST_VERSION = Version(0, 1, 0)


def _next(part: int) -> int:
    if part >= MAX_PART:
        raise InvalidRequest(f"a version part cannot exceed {MAX_PART}", param="bump")
    return part + 1


def _has_leading_zero(pre: str | None) -> bool:
    parts = (pre or "").split(".")
    return any(part.isdigit() and len(part) > 1 and part[0] == "0" for part in parts)


def _identifier_key(part: str) -> str:
    if part.isdigit():
        return f"0{len(part):02d}{part}!"
    return f"1{part}!"


@dataclass(frozen=True, slots=True)
class Reference:
    """`name`, `name@alias` or `name@1.2.3`; a bare name means `@latest`."""

    name: str
    alias: str | None = None
    version: Version | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a model reference such as `support@production`. Raises InvalidRequest."""
        name, separator, selector = text.partition("@")
        if not is_valid_name(name):
            raise InvalidRequest(
                f"{text[:160]!r} is not a model reference: use name, name@alias or name@1.2.3",
                param="model",
            )
        if not separator:
            return cls(name, alias=LATEST)
        if _ALIAS.fullmatch(selector):
            return cls(name, alias=selector)
        return cls(name, version=Version.parse(selector))

    def __str__(self) -> str:
        return f"{self.name}@{self.alias or self.version}"


def is_valid_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def derive_model_name(source: str) -> str | None:
    """A model's name from where it comes from: the last part of a directory, of `ORG/NAME`.

    In a hub cache the folder's `models--ORG--NAME` says it. None: nothing of it is left.
    """
    parts = [part for part in source.split("/") if part not in ("", ".", "..")]
    cached = next((part for part in reversed(parts) if part.startswith(_HUB_PREFIX)), None)
    last = cached.rpartition("--")[2] if cached else parts[-1] if parts else ""
    name = _NOT_IN_NAMES.sub("-", last.lower()).strip("-._")[:_MAX_NAME_CHARS].rstrip("-._")
    return name or None


def check_alias(alias: str) -> None:
    """Check a name that is to become an alias.

    Raises InvalidRequest: the alias cannot be set by hand.
    """
    if alias == LATEST:
        raise InvalidRequest("@latest is computed: it is the highest ready release", param="alias")
    if not _ALIAS.fullmatch(alias):
        raise InvalidRequest(
            f"{alias[:80]!r} is not an alias: lower-case letters, digits, - and _, a letter first",
            param="alias",
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of one version.

    Attributes:
        digest: sha256 over the canonical list of (path, sha256, size).
    """

    version_id: UUID
    digest: str
    files: tuple[FileRef, ...]


@dataclass(frozen=True, slots=True)
class VersionSpec:
    """What the caller says about a version to register.

    Attributes:
        bump: which part to raise above the highest version; ignored with `version`.
        version: an explicit version, back-ports allowed.
        architecture, parameter_count, context_length, lora_rank, lora_targets: facts declared by
            the caller; None: read from the files. A contradiction refuses the version.
        metrics: final values by name.
    """

    model: str
    kind: Kind
    relation: Relation
    bump: Bump = "minor"
    version: str | None = None
    parent_version_id: UUID | None = None
    base_version_id: UUID | None = None
    job_id: UUID | None = None
    dataset_version_id: UUID | None = None
    architecture: str | None = None
    parameter_count: int | None = None
    context_length: int | None = None
    lora_rank: int | None = None
    lora_targets: tuple[str, ...] | None = None
    config_digest: str | None = None
    code_ref: str | None = None
    licence: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)


def version_digest(files: Iterable[tuple[str, int, str]]) -> str:
    """sha256 of the RFC 8785 array of `(path, size, sha256)`, ordered by path."""
    rows = [{"path": path, "sha256": sha256, "size": size} for path, size, sha256 in sorted(files)]
    text = json.dumps(rows, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def adapter_uid(base_digest: str, adapter_digest: str) -> str:
    """The engine's name of an adapter: the same weights on the same base, whatever their name."""
    return "a" + hashlib.sha256((base_digest + adapter_digest).encode("ascii")).hexdigest()[:24]
