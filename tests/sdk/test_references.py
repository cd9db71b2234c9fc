"""A version is written name@version, wherever one is meant."""

from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from foundry.errors import Conflict, InvalidRequest, NotFound
from tests.sdk.answers import VERSION_ID, client, failure


def ask(home: Path, method: str, *arguments: Any, **options: Any) -> tuple[str, str]:
    """The path that an operation asks for, and its query."""
    seen: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url)
        return failure(404, "not_found", "none")

    resource, name = method.split(".")
    with client(answer, home) as foundry, pytest.raises(NotFound):
        getattr(getattr(foundry, resource), name)(*arguments, **options)
    return seen[0].path.removeprefix("/api"), seen[0].query.decode()


@pytest.mark.parametrize(
    ("method", "arguments", "path"),
    [
        ("models.version", ("bot@0.2.0",), "/models/bot/versions/0.2.0"),
        ("models.version", ("bot", "0.2.0"), "/models/bot/versions/0.2.0"),
        ("models.version", ("bot",), "/models/bot/versions/latest"),
        ("models.metrics", ("bot@production",), "/models/bot/versions/production/metrics"),
        ("models.artifacts", ("bot@0.2.0",), "/models/bot/versions/0.2.0/artifacts"),
        ("models.lineage", ("bot@0.2.0",), "/models/bot/versions/0.2.0/lineage"),
        ("models.delete_version", ("bot@0.2.0",), "/models/bot/versions/0.2.0"),
        ("datasets.get", ("support@3",), "/datasets/support/versions/3"),
        ("datasets.get", ("support", 3), "/datasets/support/versions/3"),
        ("datasets.rows", ("support@3",), "/datasets/support/versions/3/rows"),
        ("datasets.rows", ("support",), "/datasets/support/versions/latest/rows"),
        ("datasets.get", ("support@latest",), "/datasets/support/versions/latest"),
        ("datasets.delete_version", ("support@3",), "/datasets/support/versions/3"),
        ("datasets.delete_version", ("support", 3), "/datasets/support/versions/3"),
    ],
)
def test_a_reference_names_its_version(
    tmp_path: Path, method: str, arguments: tuple[Any, ...], path: str
) -> None:
    assert ask(tmp_path, method, *arguments)[0] == path


def test_references_of_one_model_are_compared(tmp_path: Path) -> None:
    asked = ask(tmp_path, "models.compare", "bot", ["bot@0.1.0", "0.2.0"])
    assert asked == ("/models/bot/compare", "versions=0.1.0%2C0.2.0")


def test_a_wrong_reference_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError("sent")

    with client(answer, tmp_path) as foundry:
        with pytest.raises(Conflict, match=r"bot@1\.0\.0 names a version already"):
            foundry.models.version("bot@1.0.0", "2.0.0")
        with pytest.raises(InvalidRequest, match=r"say which version of bot: bot@1\.2\.3"):
            foundry.models.delete_version("bot")
        with pytest.raises(InvalidRequest, match="say which version of bot"):
            foundry.models.set_stage("bot", deprecated=True)
        with pytest.raises(InvalidRequest, match=r"other@1\.0\.0 is no version of bot"):
            foundry.models.set_alias("bot", "production", "other@1.0.0", expected_version_id=None)
        for text in ("support", "support@latest"):
            with pytest.raises(InvalidRequest, match="say which version of support: support@1"):
                foundry.datasets.delete_version(text)
        with pytest.raises(Conflict, match="support@1 names a version already: leave 2 out"):
            foundry.datasets.get("support@1", 2)
        for text in ("@1", "bot@", ""):
            with pytest.raises(InvalidRequest, match="is not a reference"):
                foundry.models.version(text)
            with pytest.raises(InvalidRequest, match="is not a dataset reference"):
                foundry.datasets.get(text)


def test_an_alias_moves_to_a_reference_of_its_model(tmp_path: Path) -> None:
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        return failure(409, "alias_moved", "moved")

    with client(answer, tmp_path) as foundry, pytest.raises(Conflict):
        foundry.models.set_alias(
            "bot", "production", "bot@0.2.0", expected_version_id=UUID(VERSION_ID)
        )
    assert b'"version":"0.2.0"' in sent[0]


def test_a_model_is_no_version(tmp_path: Path) -> None:
    with (
        client(lambda request: httpx.Response(500), tmp_path) as foundry,
        pytest.raises(InvalidRequest, match=r"bot@0\.1\.0 is one version: models\.version has it"),
    ):
        foundry.models.get("bot@0.1.0")
