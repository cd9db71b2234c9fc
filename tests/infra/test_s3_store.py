import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from foundry.config import ObjectSettings
from foundry.errors import Conflict, NotFound, SetupError, Unavailable
from foundry.infra import s3_store
from foundry.infra.s3_store import S3Store


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def settings(endpoint: str) -> ObjectSettings:
    found = ObjectSettings(
        url="s3://foundry/team",
        endpoint_url=endpoint,
        access_key_id=SecretStr("test"),
        secret_access_key=SecretStr("test"),
    )
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="foundry")
    return found


async def test_round_trip_under_the_prefix(settings: ObjectSettings, tmp_path: Path) -> None:
    store = S3Store.from_settings(settings)
    source = tmp_path / "in"
    source.write_bytes(b"abc" * 5000)
    await store.put_file("round/trip", source)
    await store.get_file("round/trip", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == source.read_bytes()
    assert await store.get_bytes("round/trip") == source.read_bytes()
    await store.delete("round/trip")
    assert not await store.exists("round/trip")
    with pytest.raises(NotFound, match="object round/trip does not exist"):
        await store.get_bytes("round/trip")
    with pytest.raises(NotFound):
        await store.get_file("round/trip", tmp_path / "again")
    assert not (tmp_path / "again").exists()


async def test_a_key_is_written_once(settings: ObjectSettings) -> None:
    store = S3Store.from_settings(settings)
    await store.put_bytes("once", b"first")
    with pytest.raises(Conflict):
        await store.put_bytes("once", b"second")
    assert await store.get_bytes("once") == b"first"


async def test_a_large_file_goes_up_in_parts(
    settings: ObjectSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "_PART_BYTES", 5 * 2**20)
    store = S3Store.from_settings(settings)
    source = tmp_path / "large"
    source.write_bytes(bytes(range(256)) * (11 * 2**20 // 256))
    await store.put_file("large", source)
    assert await store.get_bytes("large") == source.read_bytes()


async def test_an_absent_server_is_named(settings: ObjectSettings) -> None:
    gone = settings.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(Unavailable, match="FOUNDRY_OBJECTS__ENDPOINT_URL"):
        await S3Store.from_settings(gone).get_bytes("key")


def test_the_url_is_checked() -> None:
    with pytest.raises(SetupError, match="s3://bucket/prefix"):
        S3Store.from_settings(ObjectSettings(url="https://bucket"))


async def test_objects_are_listed_in_pages_under_the_prefix(settings: ObjectSettings) -> None:
    store = S3Store.from_settings(settings)
    list_page = store._list_page

    def two_at_a_time(prefix: str, token: str | None) -> object:
        more = {"ContinuationToken": token} if token is not None else {}
        return store._client.list_objects_v2(Bucket="foundry", Prefix=prefix, MaxKeys=2, **more)

    for number in range(3):
        await store.put_bytes(f"listed/{number}", b"x")
    (page,) = [page async for page in store.list_pages("listed/")]
    assert [each.key for each in page] == ["listed/0", "listed/1", "listed/2"]
    assert abs(page[0].stored_at - time.time()) < 600
    store._list_page = two_at_a_time  # type: ignore[method-assign]
    pages = [page async for page in store.list_pages("listed/")]
    assert [[each.key for each in page] for page in pages] == [
        ["listed/0", "listed/1"],
        ["listed/2"],
    ]
    store._list_page = list_page  # type: ignore[method-assign]
    assert [len(page) async for page in store.list_pages("none/")] == [0]


async def test_parts_of_a_killed_upload_are_removed_when_they_are_old(
    settings: ObjectSettings,
) -> None:
    store = S3Store.from_settings(settings)
    store._client.create_multipart_upload(Bucket="foundry", Key="team/killed")
    # This server says of every upload that it began in November 2010.
    years = (time.time() - datetime(2010, 11, 10, tzinfo=UTC).timestamp()) / 86_400 / 365
    assert await store.remove_unfinished((years + 1) * 365 * 86_400) == 0
    assert await store.remove_unfinished((years - 1) * 365 * 86_400) == 1
    assert await store.remove_unfinished((years - 1) * 365 * 86_400) == 0
