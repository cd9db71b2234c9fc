"""The reference page: one HTML file without scripts and without anything from elsewhere.

It is drawn from the OpenAPI document itself, so it cannot say anything else than that.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from foundry.infra.http.openapi import REFUSALS, Document, list_operations

_REF = "#/components/schemas/"
_CODE = re.compile(r"`([^`]+)`")
_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "like {}",
}
_folder = files("foundry.control.reference")
STYLE = (_folder / "page.css").read_text()
# Nothing may run, and nothing may be loaded: not even a fault of the escaping could do harm.
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def render_page(document: Document, *, inference: Document | None = None) -> str:
    """The page of a document, and of the inference API's where there is one."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"prose": mark_code, "type": write_type, "limits": write_limits}
    environment.filters["example"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    template = environment.from_string((_folder / "page.html").read_text())
    documents = [document] if inference is None else [inference, document]
    return template.render(
        style=Markup(STYLE),
        inference=inference is not None,
        info=document["info"],
        paragraphs=document["info"]["description"].strip().split("\n\n"),
        groups=[group for each in documents for group in _list_groups(each)],
        refusals=REFUSALS,
        schemas={
            name: schema
            for each in documents
            for name, schema in sorted(each["components"]["schemas"].items())
        },
    )


def mark_code(text: str) -> Markup:
    """Escaped text, in which what stands in backticks is code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def _list_groups(document: Document) -> Iterator[dict[str, Any]]:
    """Operations by their tag, in the order of the document."""
    (server,) = document["servers"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for where, operation in list_operations(document):
        method, path = where.split(" ", 1)
        (tag,) = operation["tags"]
        shown = {"method": method, "path": server["url"] + path, **operation}
        groups.setdefault(tag, []).append(shown | _read_bodies(operation))
    for tag, operations in groups.items():
        yield {"name": tag, "operations": operations}


def _read_bodies(operation: Document) -> dict[str, Any]:
    """What is sent, and what comes back, by status."""
    content = operation.get("requestBody", {}).get("content", {})
    body = next(({"media_type": kind, **found} for kind, found in content.items()), None)
    answers = {
        status: next((found["schema"] for found in answer.get("content", {}).values()), None)
        for status, answer in operation["responses"].items()
        if "$ref" not in answer
    }
    refused = sorted(
        int(status) for status, answer in operation["responses"].items() if "$ref" in answer
    )
    return {"body": body, "answers": answers, "refused": refused}


def write_type(schema: Mapping[str, Any]) -> Markup:
    """A schema's type in words, with links to the schemas that are described below."""
    if reference := schema.get("$ref"):
        name = reference.removeprefix(_REF)
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return Markup(" or ").join(write_type(branch) for branch in schema[union])
    if "const" in schema:
        return escape(json.dumps(schema["const"]))
    if "enum" in schema:
        return escape(", ".join(json.dumps(value) for value in schema["enum"]))
    return _write_plain_type(schema)


def _write_plain_type(schema: Mapping[str, Any]) -> Markup:
    kind = schema.get("type", "any value")
    if kind == "array":
        inner = schema.get("prefixItems")
        if inner is not None:
            return Markup("[") + Markup(", ").join(map(write_type, inner)) + Markup("]")
        return Markup("array of ") + write_type(schema.get("items", {}))
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return Markup("object of ") + write_type(schema["additionalProperties"])
    return escape(f"{kind} ({schema['format']})" if "format" in schema else kind)


def write_limits(schema: Mapping[str, Any]) -> str:
    """Limits and default of a value."""
    branches = [schema, *schema.get("anyOf", ())]
    said = [
        text.format(_write_number(branch[name]))
        for branch in branches
        for name, text in _LIMITS.items()
        if name in branch
    ]
    if schema.get("default") is not None:
        said.append(f"default {json.dumps(schema['default'])}")
    return "; ".join(said)


def _write_number(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
