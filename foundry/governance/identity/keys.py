"""API keys: `fk_<env>_<id>_<secret><crc>`, verifiable offline by secret scanners."""

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import Literal

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARS = 12
_SECRET_CHARS = 43
_CRC_CHARS = 6
_LENGTH = 70
_PATTERN = re.compile(r"fk_(live|test)_([0-9A-Za-z]{12})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})")
_BEARER = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([^ ]+)")
_MAX_HEADER_CHARS = 256
_PREFILTER_BYTES = 8

Environment = Literal["live", "test"]


@dataclass(frozen=True, slots=True)
class Token:
    """One key in plain text; never stored, never logged."""

    environment: str
    id: str
    secret: str = field(repr=False)
    text: str = field(repr=False)


def mint_token(environment: Environment = "live") -> Token:
    """Make a new random key."""
    identifier = _random_text(_ID_CHARS)
    secret = _random_text(_SECRET_CHARS)
    head = f"fk_{environment}_{identifier}_{secret}"
    return Token(environment, identifier, secret, head + checksum(head))


def parse_token(text: str) -> Token | None:
    """Parse a key; None if it cannot be one: wrong length, grammar or checksum."""
    if len(text) != _LENGTH:
        return None
    match = _PATTERN.fullmatch(text)
    if match is None:
        return None
    environment, identifier, secret, crc = match.groups()
    if not hmac.compare_digest(checksum(text[:-_CRC_CHARS]), crc):
        return None
    return Token(environment, identifier, secret, text)


def parse_authorization(authorization: str | None) -> Token | None:
    """Parse the key of an Authorization header; None if it holds none."""
    if authorization is None or len(authorization) > _MAX_HEADER_CHARS:
        return None
    match = _BEARER.fullmatch(authorization.strip())
    return parse_token(match.group(1)) if match else None


def checksum(head: str) -> str:
    """CRC32 in base62, padded to six characters."""
    value = zlib.crc32(head.encode())
    digits = []
    for _ in range(_CRC_CHARS):
        value, digit = divmod(value, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def prefilter(pepper: bytes, token: Token) -> bytes:
    """64 bits that refuse a wrong secret without bcrypt, so that guessing costs us nothing."""
    return hmac.digest(pepper, token.text.encode(), hashlib.sha256)[:_PREFILTER_BYTES]


def verdict_key(token: Token, stored_hash: str) -> bytes:
    """The name of a verdict in the cache, over the whole token and hash.

    A cache keyed by a prefix mixes keys up (CVE-2026-35030).
    """
    return hashlib.sha256(token.text.encode() + stored_hash.encode()).digest()


def _random_text(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))
