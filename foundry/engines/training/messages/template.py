"""Chat templates: rendered as transformers renders them, from a sandbox.

Templates come with models, so they are untrusted code: the sandbox gives them no attribute of
Python's own, and everything that they see is plain JSON.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from foundry.engines.training.messages.content_format import detect_content_format
from foundry.engines.training.messages.conversation import (
    ContentFormat,
    Row,
    prepare_messages,
    prepare_tools,
)
from foundry.errors import InvalidArtifact, InvalidDataset

Span = tuple[int, int]
# What a template of somebody else can raise while it renders data of somebody else.
_FAULTS = (
    jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Context:
    """What a conversation is rendered with besides its messages.

    Attributes:
        tools: as in the row; empty means none.
        kwargs: the template's own variables, like `enable_thinking`.
    """

    tools: Sequence[Row] | None = None
    documents: Sequence[Row] | None = None
    kwargs: Row | None = None


NO_CONTEXT = Context()


@dataclass(frozen=True, slots=True)
class Rendering:
    """A text, and where `{% generation %}` blocks lie in it, in characters."""

    text: str
    generated: tuple[Span, ...] = ()


class ChatTemplate:
    """One compiled template.

    Args:
        special: bos_token and the like, which templates name.
        now: what `strftime_now` tells; a run records it once, so that it renders alike tomorrow.

    Raises:
        InvalidArtifact: the template is no valid Jinja.
    """

    def __init__(
        self, source: str, special: Mapping[str, str], now: datetime | None = None
    ) -> None:
        moment = now or datetime.now(UTC)
        # Without a zone, as transformers asks the clock.
        self._environment = _build_environment(moment.replace(tzinfo=None))
        self._source = source
        self._special = dict(special)
        try:
            self._syntax = self._environment.parse(source)
            self._template = self._environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise InvalidArtifact(f"the chat template is broken: {error}") from error
        self._knows_developer = '"developer"' in source or "'developer'" in source

    @cached_property
    def content_format(self) -> ContentFormat:
        return detect_content_format(self._syntax)

    @cached_property
    def marks_replies(self) -> bool:
        """Whether `{% generation %}` tags say what the model writes."""
        return any(
            call.name == _Generation.METHOD
            for call in self._syntax.find_all(nodes.ExtensionAttribute)
        )

    def prepare(self, messages: Sequence[Row]) -> list[dict[str, Any]]:
        """The messages as this template is given them. Raises InvalidDataset."""
        return prepare_messages(
            messages, self.content_format, knows_developer=self._knows_developer
        )

    def render(
        self,
        messages: Sequence[Row],
        context: Context = NO_CONTEXT,
        *,
        add_generation_prompt: bool = False,
    ) -> Rendering:
        """Render prepared messages.

        Raises:
            InvalidDataset: the template refuses them.
        """
        variables = {
            **self._special,
            **(context.kwargs or {}),
            "messages": messages,
            "tools": prepare_tools(context.tools),
            "documents": context.documents,
            "add_generation_prompt": add_generation_prompt,
        }
        tracker: _Generation = self._environment.extensions[_Generation.identifier]  # type: ignore[assignment]
        try:
            with tracker.following() as (blocks, spans):
                for block in self._template.generate(variables):
                    blocks.append(block)
        except _FAULTS as error:
            raise InvalidDataset(f"the chat template refuses the messages: {error}") from error
        return Rendering("".join(blocks), tuple(spans))


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}`: prints its body and notes where."""

    METHOD = "_note"
    tags = {"generation"}  # noqa: RUF012

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self._blocks: list[str] = []
        self._spans: list[Span] = []

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method(self.METHOD)
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _note(self, caller: Any) -> str:
        text: str = caller()
        start = sum(map(len, self._blocks))
        self._spans.append((start, start + len(text)))
        return text

    @contextmanager
    def following(self) -> Iterator[tuple[list[str], list[Span]]]:
        """Note the blocks of one rendering; the caller appends its text as it comes."""
        self._blocks, self._spans = [], []
        yield self._blocks, self._spans


class _TemplateDict:
    """`dict(...)` without the type's own attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _TemplateNamespace(Namespace):
    """`namespace(...)` that refuses names of Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # A template may write `namespace(self=…)`.
        self, values = args[0], args[1:]
        attributes = dict(*values, **kwargs)
        for name in attributes:
            _check_attribute(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own filter escapes HTML characters, which a model would then learn.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _build_environment(now: datetime) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_raise_exception,
        strftime_now=lambda pattern: now.strftime(pattern),
        dict=_TemplateDict(),
        namespace=_TemplateNamespace,
    )
    return environment
