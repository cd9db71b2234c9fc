"""SemVer, references, digests; no database."""

import hashlib
import random
from functools import cmp_to_key

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundry.catalog.registry.domain import (
    TRANSITIONS,
    Reference,
    Stage,
    Version,
    adapter_uid,
    version_digest,
)
from foundry.errors import InvalidRequest

NUMBERS = st.integers(min_value=0, max_value=2_147_483_647)
IDENTIFIERS = st.one_of(
    st.integers(min_value=0, max_value=10**12).map(str),
    st.from_regex(r"[0-9A-Za-z-]{0,6}[A-Za-z-][0-9A-Za-z-]{0,6}", fullmatch=True),
)
VERSIONS = st.builds(
    Version,
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 2),
    st.lists(IDENTIFIERS, max_size=3).map(".".join),
)


def reference_compare(left: Version, right: Version) -> int:
    """SemVer 2.0.0 § 11, written from the specification."""
    for a, b in zip(
        (left.major, left.minor, left.patch), (right.major, right.minor, right.patch), strict=True
    ):
        if a != b:
            return -1 if a < b else 1
    if not left.pre or not right.pre:
        return bool(right.pre) - bool(left.pre)
    ours, theirs = left.pre.split("."), right.pre.split(".")
    for mine, its in zip(ours, theirs, strict=False):
        if mine == its:
            continue
        if mine.isdigit() and its.isdigit():
            return -1 if int(mine) < int(its) else 1
        if mine.isdigit() != its.isdigit():
            return -1 if mine.isdigit() else 1
        return -1 if mine.encode() < its.encode() else 1
    return (len(ours) > len(theirs)) - (len(ours) < len(theirs))


def key_compare(left: Version, right: Version) -> int:
    a = (left.major, left.minor, left.patch, left.pre_key.encode())
    b = (right.major, right.minor, right.patch, right.pre_key.encode())
    return (a > b) - (a < b)


@given(VERSIONS, VERSIONS)
def test_the_sort_key_orders_as_the_specification(left: Version, right: Version) -> None:
    assert key_compare(left, right) == reference_compare(left, right)


def test_the_specifications_own_example() -> None:
    ordered = [
        "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2",
        "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.9.0", "1.10.0", "1.11.0", "2.0.0",
    ]  # fmt: skip
    versions = [Version.parse(text) for text in ordered]
    shuffled = random.Random(0).sample(versions, len(versions))
    assert [str(v) for v in sorted(shuffled, key=cmp_to_key(key_compare))] == ordered
    assert Version.parse("1.0.0-alpha.1").pre_key == "1alpha!0011!"


@given(VERSIONS)
def test_parsing_reads_what_printing_wrote(version: Version) -> None:
    assert Version.parse(str(version)) == version


@pytest.mark.parametrize(
    "text",
    ["1", "1.2", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "v1.2.3", "1.2.3 ", "1.2.3\n",
     "2147483648.0.0", "1.2.3-a..b", "1.2.3-ä", "1.2.٣"],
)  # fmt: skip
def test_other_grammars_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Version.parse(text)


def test_build_metadata_is_kept_and_not_compared() -> None:
    assert Version.parse("1.0.0+a") == Version.parse("1.0.0+b")
    assert str(Version.parse("1.0.0+a.1")) == "1.0.0+a.1"


@pytest.mark.parametrize(
    ("start", "part", "end"),
    [
        ("1.2.3", "patch", "1.2.4"), ("1.2.3", "minor", "1.3.0"), ("1.2.3", "major", "2.0.0"),
        ("2.0.0-rc.1", "patch", "2.0.0"), ("2.0.0-rc.1", "major", "2.0.0"),
        ("1.3.0-rc.1", "minor", "1.3.0"), ("1.3.1-rc.1", "minor", "1.4.0"),
    ],
)  # fmt: skip
def test_bumps(start: str, part: str, end: str) -> None:
    assert str(Version.parse(start).bump(part)) == end  # type: ignore[arg-type]


def test_references() -> None:
    assert Reference.parse("bot") == Reference("bot", alias="latest")
    assert Reference.parse("bot@production") == Reference("bot", alias="production")
    assert Reference.parse("bot@1.2.3-rc.1") == Reference("bot", version=Version(1, 2, 3, "rc.1"))
    for text in ("", "Bot", "../x", "a/b", "bot@", "bot@-x", "bot@A", "a@b@c", "bot\n", "x" * 129):
        with pytest.raises(InvalidRequest):
            Reference.parse(text)


def test_stages_only_end_in_the_tomb() -> None:
    assert [stage for stage, targets in TRANSITIONS.items() if not targets] == [Stage.TOMBSTONED]
    assert Stage.READY not in TRANSITIONS[Stage.QUARANTINED]


def test_digests_are_the_documented_bytes() -> None:
    text = '[{"path":"a","sha256":"00","size":1},{"path":"b","sha256":"11","size":2}]'
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert version_digest([("b", 2, "11"), ("a", 1, "00")]) == expected
    uid = adapter_uid("aa" * 32, "bb" * 32)
    assert uid == "a" + hashlib.sha256(b"aa" * 32 + b"bb" * 32).hexdigest()[:24]
