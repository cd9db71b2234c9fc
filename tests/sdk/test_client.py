import json
from operator import attrgetter
from pathlib import Path

import httpx
import pytest

from foundry import errors, sdk
from foundry.config import ClientSettings, Settings
from foundry.errors import (
    AliasMoved,
    DeadlineExceeded,
    EngineFailed,
    FoundryError,
    InvalidDataset,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    SetupError,
    Unauthenticated,
    Unavailable,
)
from foundry.sdk import AsyncFoundry, Foundry, SftConfig
from foundry.sdk._connection import connection
from foundry.sdk._errors import BY_CODE
from tests.architecture.surface import error_tree
from tests.sdk.answers import JOB_ID, client, failure, job

PUBLIC = [
    "AsyncBudsim",
    "AsyncChat",
    "AsyncEndpoints",
    "AsyncFoundry",
    "AsyncJobs",
    "Audit",
    "Bf16",
    "Budsim",
    "Capabilities",
    "Capability",
    "Datasets",
    "DilocoConfig",
    "E3m0",
    "Endpoints",
    "FleetConfig",
    "Foundry",
    "Fp32",
    "Full",
    "Health",
    "InnerConfig",
    "Int8",
    "Jobs",
    "Keys",
    "Listed",
    "Lora",
    "Models",
    "Outcomes",
    "OuterConfig",
    "Page",
    "SftConfig",
    "SyncBudsim",
    "SyncChat",
    "SyncEndpoints",
    "SyncJobs",
    "TopK",
]


def test_the_public_names() -> None:
    assert sorted(sdk.__all__) == PUBLIC
    assert all(hasattr(sdk, name) for name in PUBLIC)


def test_every_error_of_ours_has_its_code() -> None:
    assert set(BY_CODE.values()) == set(error_tree())
    assert BY_CODE["disk_full"] is errors.DiskFull


@pytest.mark.parametrize("kind", sorted(error_tree(), key=attrgetter("code")))
def test_an_error_comes_back_as_it_left(kind: type[FoundryError], tmp_path: Path) -> None:
    answer = failure(418, kind.code, "what happened", param="x", details={"row": 3, "message": 1})
    with client(lambda request: answer, tmp_path) as foundry, pytest.raises(kind) as raised:
        foundry.whoami()
    assert type(raised.value) is kind
    own = " (the key that was sent is that of the argument api_key)"
    assert raised.value.message == "what happened" + (own if kind is Unauthenticated else "")
    assert raised.value.details == {"param": "x", "row": 3, "status": 418, "request_id": "req-1"}


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (401, "", Unauthenticated),
        (403, "no", PermissionDenied),
        (404, "<html>", NotFound),
        (502, "bad gateway", Unavailable),
        (504, "late", DeadlineExceeded),
        (500, "[1]", FoundryError),
        (302, "", FoundryError),
    ],
)
def test_answers_of_others_are_told_apart(
    status: int, text: str, kind: type[FoundryError], tmp_path: Path
) -> None:
    answer = httpx.Response(status, text=text)
    with client(lambda request: answer, tmp_path) as foundry, pytest.raises(kind) as raised:
        foundry.models.list()
    assert type(raised.value) is kind
    assert f"answered {status}" in raised.value.message


def test_an_unknown_code_is_an_error_of_ours(tmp_path: Path) -> None:
    answer = failure(400, "from_the_future", "new")
    with client(lambda request: answer, tmp_path) as foundry, pytest.raises(FoundryError) as raised:
        foundry.health()
    assert type(raised.value) is FoundryError


def test_a_body_that_is_not_understood_says_so(tmp_path: Path) -> None:
    answer = httpx.Response(200, json={"status": "ok"})
    with (
        client(lambda request: answer, tmp_path) as foundry,
        pytest.raises(FoundryError, match=r"\(version is required\): is it a Foundry"),
    ):
        foundry.health()


def test_reads_are_tried_three_times_and_writes_once(tmp_path: Path) -> None:
    seen: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        seen.append(request.method)
        raise httpx.ConnectError("refused")

    with client(refuse, tmp_path) as foundry:
        with pytest.raises(Unavailable, match=r"nothing answers at http://foundry\.test; start it"):
            foundry.models.list()
        assert seen == ["GET"] * 3
        seen.clear()
        with pytest.raises(Unavailable):
            foundry.jobs.cancel(JOB_ID)
        assert seen == ["POST"]


def test_a_read_recovers(tmp_path: Path) -> None:
    attempts = iter([httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), None])

    def answer(request: httpx.Request) -> httpx.Response:
        if (error := next(attempts)) is not None:
            raise error
        return httpx.Response(200, json={"status": "ok", "version": "1"})

    with client(answer, tmp_path) as foundry:
        assert foundry.health().version == "1"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ReadTimeout("late"), DeadlineExceeded),
        (httpx.RemoteProtocolError("cut"), Unavailable),
        (httpx.UnsupportedProtocol("ftp"), SetupError),
    ],
)
def test_broken_connections(
    error: httpx.HTTPError, kind: type[FoundryError], tmp_path: Path
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error

    with client(answer, tmp_path) as foundry, pytest.raises(kind) as raised:
        foundry.health()
    assert type(raised.value) is kind


def test_a_request_carries_key_path_query_and_body(tmp_path: Path) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, json=job("QUEUED"))

    with client(answer, tmp_path) as foundry:
        submitted = foundry.jobs.submit_sft("bot", "smol@1.0.0", "support@1", SftConfig(epochs=2))
    assert submitted.state == "QUEUED"
    assert seen[0].url == "http://foundry.test/api/jobs/sft"
    assert seen[0].headers["authorization"] == "Bearer fk_live_test"
    assert seen[0].headers["content-type"] == "application/json"
    assert b'"epochs":2' in seen[0].content


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_cannot_change_the_route(name: str, tmp_path: Path) -> None:
    with client(lambda r: httpx.Response(200), tmp_path) as foundry, pytest.raises(InvalidRequest):
        foundry.models.get(name)


def test_a_slash_in_a_name_stays_in_the_name(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path)
        return failure(404, "model_not_found", "none")

    with client(answer, tmp_path) as foundry, pytest.raises(NotFound):
        foundry.models.get("../keys?x#y")
    assert seen == [b"/api/models/..%2Fkeys%3Fx%23y"]


def test_wrong_arguments_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError("sent")

    with client(answer, tmp_path) as foundry:
        with pytest.raises(InvalidRequest, match=r"^name must match \^"):
            foundry.jobs.submit_sft("Bad Name", "smol", "support")
        with pytest.raises(InvalidRequest, match=r"^role must be one of 'viewer'"):
            foundry.keys.create("ci", role="root")
        with pytest.raises(InvalidRequest, match="bytes need a filename"):
            foundry.datasets.add("support", b"{}")
        with pytest.raises(NotFound, match="there is no file"):
            foundry.datasets.add("support", tmp_path / "missing.jsonl")


def test_a_file_is_streamed_and_named(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"prompt": "a"}\n')

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.read() == file.read_bytes()
        assert request.url.params["filename"] == "rows.jsonl"
        return failure(400, "invalid_dataset", "row 1: completion is missing")

    with (
        client(answer, tmp_path) as foundry,
        pytest.raises(InvalidDataset, match="row 1: completion is missing"),
    ):
        foundry.datasets.add("support", file)


def _events(*events: str) -> bytes:
    return "".join(f"data: {event}\n\n" for event in events).encode()


def _piece(text: str) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}}]})


def test_chat_streams_pieces(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/chat/completions"
        assert b'"temperature":0.0' in request.content
        assert b"max_tokens" not in request.content
        body = _events(
            '{"choices": [{"delta": {"role": "assistant"}}]}',
            _piece("Hel"),
            _piece("lo"),
            '{"choices": [], "usage": {}}',
            "[DONE]",
        )
        return httpx.Response(200, content=b": keep-alive\n\n" + body)

    with client(answer, tmp_path) as foundry:
        messages = [{"role": "user", "content": "hi"}]
        assert list(foundry.chat.stream("bot", messages, temperature=0.0)) == ["Hel", "lo"]


def test_chat_tells_why_an_answer_ended(tmp_path: Path) -> None:
    last = json.dumps({"choices": [{"delta": {}, "finish_reason": "length"}]})
    answer = httpx.Response(200, content=_events(_piece("x"), last, "[DONE]"))
    reasons: list[str] = []
    with client(lambda request: answer, tmp_path) as foundry:
        assert list(foundry.chat.stream("bot", [], on_finish=reasons.append)) == ["x"]
    assert reasons == ["length"]


def test_chat_lists_what_is_served(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/v1/models"
        return httpx.Response(200, json={"object": "list", "data": [{"id": "bot", "created": 1}]})

    with client(answer, tmp_path) as foundry:
        assert foundry.chat.models() == ["bot"]


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (_events(_piece("a")), EngineFailed, "ended before"),
        (_events("nonsense"), EngineFailed, "no chat chunk"),
        (_events("[]"), EngineFailed, "no chat chunk"),
        (
            _events('{"error": {"message": "the engine died", "code": "engine_failed"}}'),
            EngineFailed,
            "the engine died",
        ),
    ],
)
def test_a_broken_stream_is_an_error(
    body: bytes, kind: type[FoundryError], words: str, tmp_path: Path
) -> None:
    answer = httpx.Response(200, content=body)
    with client(lambda request: answer, tmp_path) as foundry, pytest.raises(kind, match=words):
        list(foundry.chat.stream("bot", []))


def test_a_refused_stream_is_the_servers_error(tmp_path: Path) -> None:
    answer = failure(503, "no_healthy_upstream", "not running: foundry deploy smol")
    with (
        client(lambda request: answer, tmp_path) as foundry,
        pytest.raises(errors.NoHealthyUpstream, match="foundry deploy smol"),
    ):
        list(foundry.chat.stream("bot", []))


async def test_the_async_client_shares_operations_and_errors(tmp_path: Path) -> None:
    answers = iter(
        [
            httpx.Response(200, json=job("RUNNING")),
            httpx.Response(200, json=job("FAILED")),
            failure(409, "alias_moved", "moved"),
            httpx.Response(200, content=_events(_piece("x"), "[DONE]")),
        ]
    )
    transport = httpx.MockTransport(lambda request: next(answers))
    async with AsyncFoundry(
        "http://foundry.test", "k", settings=Settings(home=tmp_path), transport=transport
    ) as foundry:
        assert (await foundry.jobs.wait(JOB_ID, poll_s=0)).state == "FAILED"
        with pytest.raises(AliasMoved):
            await foundry.models.set_alias("m", "production", "1.0.0", expected_version_id=None)
        assert [piece async for piece in foundry.chat.stream("bot", [])] == ["x"]


def _credentials(home: Path, text: str) -> Settings:
    (home / "credentials.json").write_text(text)
    return Settings(home=home)


def test_the_local_stack_is_the_default(tmp_path: Path) -> None:
    settings = _credentials(tmp_path, '{"url": "http://127.0.0.1:8123", "api_key": "fk_local"}')
    found = connection(settings)
    assert (found.url, found.api_key, found.timeout_s) == ("http://127.0.0.1:8123", "fk_local", 60)


def test_the_local_key_goes_nowhere_else(tmp_path: Path) -> None:
    settings = _credentials(tmp_path, '{"url": "http://127.0.0.1:8123", "api_key": "fk_local"}')
    elsewhere = settings.model_copy(update={"client": ClientSettings(url="https://other/v1/")})
    assert connection(elsewhere).url == "https://other"
    assert connection(elsewhere).api_key is None
    assert connection(settings, url="http://127.0.0.1:8123/").api_key == "fk_local"


def test_arguments_win_over_settings_and_settings_over_the_local_stack(tmp_path: Path) -> None:
    _credentials(tmp_path, '{"url": "http://127.0.0.1:8123", "api_key": "fk_local"}')
    own = ClientSettings.model_validate({"url": "https://a", "api_key": "fk_a", "timeout_s": 5})
    settings = Settings(home=tmp_path, client=own)
    assert connection(settings).api_key == "fk_a"
    assert connection(settings, "https://b", "fk_b", 1).api_key == "fk_b"
    assert connection(settings, "https://b", "fk_b", 1).timeout_s == 1


def test_without_a_stack_the_address_of_the_settings_is_tried(tmp_path: Path) -> None:
    found = connection(Settings(home=tmp_path))
    assert (found.url, found.api_key) == ("http://127.0.0.1:8000", None)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_broken_credentials_name_their_file(text: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"credentials\.json"):
        connection(_credentials(tmp_path, text))


def test_a_key_that_http_cannot_carry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unauthenticated):
        Foundry("http://foundry.test", "kéy\n", settings=Settings(home=tmp_path))
