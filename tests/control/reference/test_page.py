"""The page: whole, self-contained, escaped."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from fastapi import FastAPI

from foundry.control.reference.page import (
    CONTENT_SECURITY_POLICY,
    mark_code,
    render_page,
    write_limits,
    write_type,
)


class Elements(HTMLParser):
    """Attributes: ids and links of the page, and elements that are open at its end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on") and name != "style" and name != "src", (tag, name)
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def page(control_app: FastAPI) -> str:
    return render_page(control_app.openapi())


def test_it_needs_nothing_from_elsewhere(page: str) -> None:
    found = Elements(page)
    assert not found.open
    assert not {"script", "link", "img", "iframe", "form", "object"} & found.names
    assert all(link.startswith(("#", "/")) for link in found.links)
    assert "http://" not in page
    assert len(page) < 400_000


def test_every_link_leads_somewhere(page: str) -> None:
    found = Elements(page)
    assert len(found.ids) == len(set(found.ids))
    inner = {link.removeprefix("#") for link in found.links if link.startswith("#")}
    assert inner <= set(found.ids)
    assert [link for link in found.links if link.startswith("/")] == ["/api/openapi.json"]


def test_every_operation_and_schema_is_there(page: str, control_app: FastAPI) -> None:
    document = control_app.openapi()
    ids = set(Elements(page).ids)
    names = {o["operationId"] for m in document["paths"].values() for o in m.values()}
    assert names <= ids
    assert {f"schema-{name}" for name in document["components"]["schemas"]} <= ids
    assert {"status-400", "status-401", "status-503"} <= ids
    assert '<span class="path">/api/jobs/sft</span>' in page


def test_its_style_is_the_one_that_the_policy_allows(page: str) -> None:
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY


def test_what_the_document_says_is_text() -> None:
    document: dict[str, Any] = {
        "info": {"version": "1", "description": "<script>alert(1)</script> `a<b`"},
        "servers": [{"url": "/api"}],
        "paths": {},
        "components": {"schemas": {"X": {"description": "<img src=x>", "type": "string"}}},
    }
    page = render_page(document)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; <code>a&lt;b</code>" in page


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string", "format": "uuid"}, "string (uuid)"),
        ({"$ref": "#/components/schemas/A"}, '<a href="#schema-A">A</a>'),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer or null"),
        ({"type": "array", "items": {"type": "number"}}, "array of number"),
        (
            {"type": "array", "prefixItems": [{"type": "number"}, {"type": "string"}]},
            "[number, string]",
        ),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "object of number"),
        ({"type": "object", "additionalProperties": True}, "object"),
        ({"enum": ["a", "b"]}, "&#34;a&#34;, &#34;b&#34;"),
        ({"const": "lora"}, "&#34;lora&#34;"),
        ({}, "any value"),
    ],
)
def test_types_in_words(schema: dict[str, Any], text: str) -> None:
    assert str(write_type(schema)) == text


def test_limits_in_words() -> None:
    optional = {"anyOf": [{"type": "integer", "minimum": 1.0, "maximum": 2**31}, {"type": "null"}]}
    assert write_limits(optional) == "at least 1; at most 2147483648"
    assert write_limits({"exclusiveMinimum": 0.0, "default": 0.5}) == "more than 0; default 0.5"
    assert write_limits({"default": None}) == ""


def test_code_in_prose() -> None:
    assert str(mark_code("use `a < b` & more")) == "use <code>a &lt; b</code> &amp; more"
