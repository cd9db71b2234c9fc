"""A mirror of the hub: listings, broken connections, lies about sizes and digests."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from foundry.config import ImportSettings
from foundry.errors import InvalidArtifact, NotFound, SetupError, Unavailable
from foundry.infra.hub_mirror import HubFile, HubListing, HubMirror

CONTENT = bytes(range(256)) * 20_000
FILE = HubFile("model.safetensors", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
LISTING = HubListing("ORG/Tiny", "c0ffee", {FILE.path: FILE})
Answer = Callable[[httpx.Request], httpx.Response]


def mirror(answer: Answer, token: str | None = None) -> HubMirror:
    return HubMirror("http://mirror.test/hf/", token, httpx.MockTransport(answer), pause_s=0)


async def fetch(answer: Answer, target: Path, file: HubFile = FILE) -> list[int]:
    arrived: list[int] = []
    await mirror(answer).fetch(LISTING, file, target, arrived.append)
    return arrived


async def test_a_listing_has_sizes_digests_and_the_commit() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.raw_path == b"/hf/api/models/ORG/Tiny/revision/refs%2Fpr%2F1?blobs=true"
        assert request.headers["authorization"] == "Bearer secret"
        large = {"sha256": "ab" * 32, "size": 7}
        siblings = [
            {"rfilename": "config.json", "size": 3},
            {"rfilename": "model.safetensors", "size": 130, "lfs": large},
        ]
        return httpx.Response(200, json={"sha": "c0ffee", "siblings": siblings})

    found = await mirror(answer, "secret").list_files("ORG/Tiny", "refs/pr/1")
    assert found == HubListing(
        "ORG/Tiny",
        "c0ffee",
        {
            "config.json": HubFile("config.json", 3),
            "model.safetensors": HubFile("model.safetensors", 7, "ab" * 32),
        },
    )


async def test_a_file_goes_on_where_the_connection_broke(tmp_path: Path) -> None:
    ranges: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        ranges.append(request.headers.get("range"))
        begin = int(ranges[-1].removeprefix("bytes=").rstrip("-")) if ranges[-1] else 0
        # Each connection carries a quarter.
        part = CONTENT[begin : begin + len(CONTENT) // 4]
        return httpx.Response(206 if begin else 200, content=part)

    arrived = await fetch(answer, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == CONTENT
    assert sum(arrived) == len(CONTENT)
    assert ranges == [None, *(f"bytes={len(CONTENT) // 4 * n}-" for n in (1, 2, 3))]


async def test_what_an_earlier_attempt_has_fetched_is_kept(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(CONTENT)

    def refuse(request: httpx.Request) -> httpx.Response:
        raise AssertionError("nothing is missing")

    assert await fetch(refuse, tmp_path / "m") == []


async def test_a_mirror_without_ranges_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"begun")
    await fetch(lambda request: httpx.Response(200, content=CONTENT), tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT + b"x", CONTENT[:-1] + b"x"])
async def test_what_was_not_listed_is_not_kept(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InvalidArtifact, match=r"model.safetensors is (larger|not what)"):
        await fetch(lambda request: httpx.Response(200, content=content), tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_what_the_mirror_does_not_show_is_not_found(status: int) -> None:
    with pytest.raises(NotFound, match="does not show ORG/None/revision/main"):
        await mirror(lambda request: httpx.Response(status)).list_files("ORG/None", "main")


def _lost(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("no route")


@pytest.mark.parametrize(
    "answer",
    [
        _lost,
        lambda request: httpx.Response(503),
        lambda request: httpx.Response(200, json={"sha": "x"}),
        lambda request: httpx.Response(200, json={"sha": "x", "siblings": [{"size": 1}]}),
        lambda request: httpx.Response(200, json=[]),
        lambda request: httpx.Response(200, json={"sha": "../../x", "siblings": []}),
    ],
)
async def test_a_mirror_that_is_away_is_unavailable(answer: Answer) -> None:
    with pytest.raises(Unavailable, match=r"the mirror http://mirror.test/hf"):
        await mirror(answer).list_files("ORG/Tiny", "main")


async def test_connections_that_always_break_keep_what_arrived(tmp_path: Path) -> None:
    calls = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return httpx.Response(206 if calls > 1 else 200, content=b"12")

    with pytest.raises(Unavailable, match="break off"):
        await fetch(answer, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == b"12" * 5


async def test_an_endless_document_is_not_read() -> None:
    with pytest.raises(InvalidArtifact, match="larger"):
        await mirror(lambda request: httpx.Response(200, content=b"[" * 2**22)).read_document(
            LISTING, "config.json"
        )


def test_the_setting_decides(tmp_path: Path) -> None:
    assert HubMirror.from_settings(ImportSettings()) is None
    assert HubMirror.from_settings(ImportSettings(hugging_face_mirror="https://m.test"))
    with pytest.raises(SetupError, match="FOUNDRY_IMPORTS__HUGGING_FACE_MIRROR must look like"):
        HubMirror("mirror.test")
