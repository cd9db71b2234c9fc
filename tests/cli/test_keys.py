"""`foundry keys` as a user types it, against a server that gives fixed answers."""

import json

import pytest

from foundry.cli.main import run
from tests.cli.conftest import Server
from tests.sdk.answers import AT

Capture = pytest.CaptureFixture[str]
KEY = "fk_live_pDKGA7lmjZWL_" + "s" * 43 + "crc123"
ERROR = {"type": "x", "param": None}


def key(**fields: object) -> dict[str, object]:
    return {
        "id": "pDKGA7lmjZWL",
        "name": "ci",
        "subject": "ada",
        "role": "viewer",
        "scopes": ["jobs:read", "models:read"],
        "permissions": ["jobs:read", "models:read"],
        "limited": False,
        "state": "active",
        "created_at": AT,
        "expires_at": "2126-01-02T03:04:05Z",
        "revoked_at": None,
    } | fields


def listed(server: type[Server]) -> None:
    server.answers["/keys"] = (200, {"data": [key()], "next_cursor": None})


def created(server: type[Server], **fields: object) -> None:
    server.answers["/keys"] = (201, key(key=KEY, namesakes=[]) | fields)


def test_a_new_key_is_whole_on_one_line_and_says_how_to_use_it(
    server: type[Server], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    created(server)
    assert run(["keys", "create", "ci", "--role", "viewer"]) == 0
    shown = capsys.readouterr()
    (line,) = (line for line in shown.out.splitlines() if line.startswith("key "))
    assert line.split() == ["key", KEY]
    assert len(line) < 80
    # A viewer's key does not look like an administrator's.
    assert "*:*" not in shown.out
    assert "all of viewer" in shown.out
    assert "FOUNDRY_CLIENT__API_KEY=fk_live_pDKGA7lmjZWL_…" in shown.err
    assert "export FOUNDRY_CLIENT__URL=http://127.0.0.1:" in shown.err
    # The secret is in one place only: standard error goes into logs.
    assert KEY not in shown.err
    assert server.asked == [
        (
            "/keys",
            {
                "name": "ci",
                "role": "viewer",
                "scopes": ["*:*"],
                "expires_in_days": 90,
                "subject": None,
            },
        )
    ]


def test_json_has_every_field_and_nothing_else(server: type[Server], capsys: Capture) -> None:
    created(server)
    assert run(["keys", "create", "ci", "--role", "viewer", "-o", "json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["key"] == KEY
    assert shown.err == ""


def test_older_keys_of_the_name_are_told(server: type[Server], capsys: Capture) -> None:
    created(server, namesakes=["aaaaaaaaaaaa", "bbbbbbbbbbbb"])
    assert run(["keys", "create", "ci"]) == 0
    told = capsys.readouterr().err
    assert "older keys named ci work as well: aaaaaaaaaaaa, bbbbbbbbbbbb" in told


@pytest.mark.parametrize("days", ["0", "367", "-1", "soon"])
def test_an_expiry_out_of_bounds_is_refused_before_anything_is_sent(
    server: type[Server], days: str, capsys: Capture
) -> None:
    assert run(["keys", "create", "ci", "--expires-in-days", days]) == 2
    assert "--expires-in-days" in capsys.readouterr().err
    assert server.asked == []


def test_the_list_shows_what_a_key_may_do_and_whether_it_works(
    server: type[Server], capsys: Capture
) -> None:
    rows = [
        key(),
        key(id="b", role="member", limited=True, permissions=["inference:invoke"], state="expired"),
        key(id="c", state="revoked", revoked_at=AT),
    ]
    server.answers["/keys"] = (200, {"data": rows, "next_cursor": None})
    assert run(["keys", "list"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["id", "name", "state", "role", "may"]
    assert [line.split()[2:5] for line in lines] == [
        ["active", "viewer", "all"],
        ["expired", "member", "inference:invoke"],
        ["revoked", "viewer", "all"],
    ]


def test_no_keys_is_a_sentence(server: type[Server], capsys: Capture) -> None:
    server.answers["/keys"] = (200, {"data": [], "next_cursor": None})
    assert run(["keys", "list"]) == 0
    assert capsys.readouterr().out == "no keys yet: foundry keys create NAME\n"


def test_revoking_asks_and_says_which_key_it_is(
    server: type[Server], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = {
        "tenant_id": "t",
        "project_id": "p",
        "subject": "ada",
        "role": "admin",
        "scopes": ["*:*"],
        "permissions": ["keys:write"],
        "key_id": "pDKGA7lmjZWL",
    }
    server.answers["/whoami"] = (200, who)
    listed(server)
    asked: list[str] = []

    def refuse(text: str, err: bool) -> bool:
        asked.append(text)
        return False

    monkeypatch.setattr("typer.confirm", refuse)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert run(["keys", "revoke", "ci"]) == 1
    assert asked == [
        "revoke the key pDKGA7lmjZWL (ci), the one that you use now; what uses it stops working?"
    ]
    assert [path for path, _ in server.asked] == ["/keys", "/whoami"]


@pytest.mark.parametrize(
    ("status", "code", "says", "exit_code"),
    [
        (404, "not_found", "there is no key ci", 3),
        (409, "conflict", "the key pDKGA7lmjZWL (ci) was revoked at 2026-01-02 03:04:05 UTC", 6),
        (403, "permission_denied", "this key lacks the permission keys:write", 4),
    ],
)
def test_a_key_that_cannot_be_revoked_has_its_exit_code(
    server: type[Server], capsys: Capture, status: int, code: str, says: str, exit_code: int
) -> None:
    listed(server)
    refusal = {"error": {"message": says, "code": code, **ERROR}}
    server.answers["/keys/pDKGA7lmjZWL"] = (status, refusal)
    assert run(["keys", "revoke", "pDKG", "--yes"]) == exit_code
    assert says in capsys.readouterr().err


def test_a_revoked_key_is_shown(server: type[Server], capsys: Capture) -> None:
    listed(server)
    server.answers["/keys/pDKGA7lmjZWL"] = (200, key(state="revoked", revoked_at=AT))
    assert run(["keys", "revoke", "pDKGA7lmjZWL", "--yes"]) == 0
    assert "revoked" in capsys.readouterr().out
