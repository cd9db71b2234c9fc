"""Where imports read from."""

from pathlib import Path

import pytest

from foundry.errors import InvalidRequest
from foundry.execution.jobs.domain import BUNDLED
from foundry.execution.jobs.sources import (
    SCHEMES,
    BundledSource,
    DirectorySource,
    HubSource,
    Source,
    parse_source,
)


@pytest.mark.parametrize(
    ("text", "source", "told"),
    [
        ("bundled:smollm2-135m", BundledSource(), "bundled:smollm2-135m"),
        ("file:///models/llama", DirectorySource(Path("/models/llama")), "file:///models/llama"),
        ("/models/llama", DirectorySource(Path("/models/llama")), "file:///models/llama"),
        ("file:///a%20b", DirectorySource(Path("/a b")), "file:///a%20b"),
        ("file:///a?b#c", DirectorySource(Path("/a?b#c")), "file:///a%3Fb%23c"),
        ("hf:ORG/Name-1.5B", HubSource("ORG/Name-1.5B", "main"), "hf:ORG/Name-1.5B@main"),
        ("hf:a/b@refs/pr/1", HubSource("a/b", "refs/pr/1"), "hf:a/b@refs/pr/1"),
    ],
)
def test_a_source_is_read_and_written(text: str, source: Source, told: str) -> None:
    assert parse_source(text) == source
    assert source.text == told
    assert parse_source(source.text) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        "file://host/x",
        "file:///a/..",
        "file:///../x",
        "file:///%2e%2e/x",
        "file:///a\0b",
        "s3://x",
        "file:relative",
        "relative",
        "~/x",
        "hf:name",
        "hf:../..",
        "hf:a/b@../x",
        "hf:a/b/c",
        "bundled:other",
    ],
)
def test_what_is_no_source_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be imported: use bundled:smollm2-135m"):
        parse_source(text)


def test_the_schemes_are_those_that_are_read() -> None:
    texts = [BUNDLED, "/models/llama", "hf:ORG/NAME"]
    assert [parse_source(text).text.partition(":")[0] for text in texts] == list(SCHEMES)
