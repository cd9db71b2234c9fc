"""Roles, scopes and keys; no database."""

from dataclasses import replace
from uuid import uuid4

import pytest
from pydantic import ValidationError

from foundry.errors import InvalidRequest
from foundry.governance.identity.domain import (
    PERMISSIONS,
    Role,
    check_scopes,
    job_principal,
    list_granted,
    narrow_scopes,
    pattern_covers,
)
from foundry.governance.identity.keys import (
    checksum,
    mint_token,
    parse_authorization,
    parse_token,
    prefilter,
)
from foundry.governance.identity.schemas import KeyCreate
from tests.governance.identity.principals import principal

TABLE = [
    ("models:read", True, True, True),
    ("audit:read", False, False, True),
    ("inference:invoke", False, True, True),
    ("jobs:write", False, True, True),
    ("datasets:write", False, True, True),
    ("registry:write", False, True, True),
    ("endpoints:write", False, True, True),
    ("budsim:read", True, True, True),
    ("budsim:run", False, True, True),
    ("budsim:admin", False, False, True),
    ("registry:promote", False, False, True),
    ("registry:import", False, False, True),
    ("keys:write", False, False, True),
    ("platform:anything", False, False, False),
    ("feedback:write", False, False, False),
]


@pytest.mark.parametrize(("permission", "viewer", "member", "admin"), TABLE)
def test_roles(permission: str, viewer: bool, member: bool, admin: bool) -> None:
    allowed = [principal(role).allows(permission) for role in Role]
    assert allowed == [viewer, member, admin]


def test_scopes_only_narrow() -> None:
    caller = principal(Role.MEMBER)
    narrow = type(caller)(
        caller.tenant_id, caller.project_id, "s", "user", "k", Role.MEMBER, frozenset({"jobs:*"})
    )
    assert narrow.allows("jobs:write")
    assert not narrow.allows("datasets:write")
    wide = type(caller)(
        caller.tenant_id, caller.project_id, "s", "user", "k", Role.VIEWER, frozenset({"*:*"})
    )
    assert not wide.allows("jobs:write")


@pytest.mark.parametrize("scope", ["*:*", "jobs:*", "*:write", "*:read", "inference:invoke"])
def test_scopes_that_mean_something_are_accepted(scope: str) -> None:
    check_scopes(Role.MEMBER, {scope})


@pytest.mark.parametrize(
    "scope", ["everything", "", ":", "jobs", "jobs:delete", "job:read", "jobs:read:x", "*", "*:x"]
)
def test_a_scope_that_does_not_exist_is_refused_with_those_that_do(scope: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_scopes(Role.ADMIN, {"*:*", scope})
    assert repr(scope) in caught.value.message
    assert all(permission in caught.value.message for permission in PERMISSIONS)


def test_a_scope_that_gives_the_role_nothing_is_refused_with_the_role_that_has_it() -> None:
    with pytest.raises(InvalidRequest, match="gives a viewer nothing: it takes the role member"):
        check_scopes(Role.VIEWER, {"*:read", "jobs:write"})
    with pytest.raises(InvalidRequest, match="gives a member nothing: it takes the role admin"):
        check_scopes(Role.MEMBER, {"audit:*"})


def test_what_is_granted_is_the_roles_share_of_the_scopes() -> None:
    assert list_granted(Role.VIEWER, {"*:*"}) == [
        "budsim:read",
        "capabilities:read",
        "datasets:read",
        "endpoints:read",
        "jobs:read",
        "keys:read",
        "models:read",
    ]
    assert list_granted(Role.ADMIN) == list(PERMISSIONS)
    assert list_granted(Role.VIEWER, {"jobs:*", "nonsense"}) == ["jobs:read"]
    caller = replace(principal(Role.MEMBER), scopes=frozenset({"jobs:*", "keys:*"}))
    assert list_granted(caller.role, caller.scopes) == [
        permission for permission in PERMISSIONS if caller.allows(permission)
    ]


@pytest.mark.parametrize(
    ("role", "scopes", "shown"),
    [
        (Role.ADMIN, {"*:*"}, ["*:*"]),
        (Role.VIEWER, {"*:*"}, list_granted(Role.VIEWER)),
        (Role.VIEWER, {"*:read"}, list_granted(Role.VIEWER)),
        (Role.MEMBER, {"jobs:*", "keys:*"}, ["jobs:*", "keys:read"]),
        (Role.VIEWER, {"jobs:*", "jobs:read"}, ["jobs:read"]),
        # Of a permission that the product has no more.
        (Role.ADMIN, {"models:read", "nonsense:read"}, ["models:read"]),
    ],
)
def test_scopes_are_told_without_what_the_role_does_not_have(
    role: Role, scopes: set[str], shown: list[str]
) -> None:
    narrowed = narrow_scopes(role, scopes)
    assert narrowed == shown
    assert list_granted(role, narrowed) == list_granted(role, scopes)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[2J", "a\u202eb", "x" * 129])
def test_a_name_is_one_printable_line(name: str) -> None:
    with pytest.raises(ValidationError):
        KeyCreate(name=name)
    assert KeyCreate(name=" ci für Ada ").name == "ci für Ada"


def test_no_key_mints_one_above_itself() -> None:
    member = principal(Role.MEMBER)
    assert member.may_mint(Role.VIEWER, frozenset({"*:*"}))
    assert not member.may_mint(Role.ADMIN, frozenset({"jobs:*"}))
    job = job_principal(uuid4(), uuid4(), uuid4())
    assert not job.may_mint(Role.VIEWER, frozenset({"*:*"}))
    assert job.may_mint(Role.VIEWER, frozenset({"registry:write"}))


@pytest.mark.parametrize(
    ("pattern", "permission", "expected"),
    [("*:*", "a:b", True), ("a:*", "a:b", True), ("*:b", "a:b", True), ("a:c", "a:b", False)],
)
def test_patterns(pattern: str, permission: str, expected: bool) -> None:
    assert pattern_covers(pattern, permission) is expected


def test_a_minted_key_has_the_published_shape() -> None:
    token = mint_token()
    assert len(token.text) == 70
    assert token.text.startswith(f"fk_live_{token.id}_{token.secret}")
    assert parse_token(token.text) == token
    assert parse_authorization(f"Bearer {token.text}") == token
    assert token.secret not in repr(token)
    assert len({mint_token().text for _ in range(100)}) == 100


def test_the_checksum_is_crc32_in_base62() -> None:
    # zlib.crc32(b"123456789") is the published check value 0xCBF43926 = 3,421,780,262.
    value, digits = 3_421_780_262, []
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    for _ in range(6):
        value, digit = divmod(value, 62)
        digits.append(alphabet[digit])
    assert value == 0
    assert checksum("123456789") == "".join(reversed(digits))


def test_every_single_character_change_is_noticed() -> None:
    token = mint_token()
    for place in range(len(token.text)):
        other = "b" if token.text[place] == "a" else "a"
        assert parse_token(token.text[:place] + other + token.text[place + 1 :]) is None


@pytest.mark.parametrize(
    "header",
    [None, "", "Basic abc", "Bearer", "Bearer  ", "Bearer a b", "Bearer " + "x" * 70, "B" * 5000],
)
def test_other_headers_are_no_keys(header: str | None) -> None:
    assert parse_authorization(header) is None


def test_the_prefilter_depends_on_pepper_and_token() -> None:
    first, second = mint_token(), mint_token()
    values = {prefilter(p, t) for p in (b"a" * 32, b"b" * 32) for t in (first, second)}
    assert len(values) == 4
    assert {len(value) for value in values} == {8}
