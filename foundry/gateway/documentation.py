"""The document of `/v1`: OpenAI's protocol as far as it is served, and the errors that are sent.

Bodies are handed to the engine as they came (`foundry.gateway.body`), so these models describe and
check nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ConfigDict, Field

from foundry import __version__
from foundry.infra.http.openapi import Document, Notes, build_document

_SCHEMA = "#/components/schemas/{model}"


class TextPart(BaseModel):
    """A piece of a message. Text is the only kind that is served."""

    type: Literal["text"] = Field(description="kind of the piece")
    text: str = Field(description="the text itself")


class Message(BaseModel):
    """One turn of a conversation. Tool calls and their results are served, too."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(description="system, user, assistant or tool")
    content: str | list[TextPart] | None = Field(
        default=None, description="what is said; an assistant that calls tools may leave it out"
    )


class _Sampling(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str = Field(description="a model or an adapter, as GET /v1/models lists them")
    stream: bool = Field(default=False, description="send the answer as it is made, as events")
    max_tokens: int | None = Field(
        default=None, description="at most so many tokens; unset: what the context has left"
    )
    temperature: float | None = Field(
        default=None, description="0: always the likeliest token; unset: the model's own"
    )
    top_p: float | None = Field(
        default=None, description="share of the probability that is drawn from; unset: the model's"
    )
    seed: int | None = Field(default=None, description="equal seeds draw equally")
    stop: str | list[str] | None = Field(default=None, description="texts before which it ends")


class ChatBody(_Sampling):
    """A conversation to be continued. OpenAI's other parameters are handed to the engine."""

    messages: list[Message] = Field(description="the conversation so far, oldest first")


class CompletionBody(_Sampling):
    """A text to be continued. OpenAI's other parameters are handed to the engine."""

    prompt: str | list[str] = Field(description="the text, or several of them")


class ModelCard(BaseModel):
    """A model or an adapter that answers, or will once its endpoint runs."""

    id: str = Field(description="what to send as `model`")
    object: Literal["model"] = Field(description="always model")
    created: int = Field(description="when it was registered, in seconds since 1970")
    owned_by: str = Field(description="always foundry")
    parent: str | None = Field(description="base of an adapter; null: it is a base")
    context_length: int = Field(description="prompt and answer together, in tokens, as deployed")
    max_model_len: int = Field(description="as `context_length`, by vLLM's name")


class ModelCards(BaseModel):
    """The models that this key may use."""

    object: Literal["list"] = Field(description="always list")
    data: list[ModelCard] = Field(description="a card for each")


BODIES: Mapping[str, type[BaseModel]] = {
    "chat_completions": ChatBody,
    "completions": CompletionBody,
}
EXAMPLES: Mapping[str, object] = {
    "chat_completions": {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "How do I reset my password?"}],
        "max_tokens": 64,
        "temperature": 0,
    },
    "completions": {"model": "smollm2-135m", "prompt": "Once upon a time", "max_tokens": 32},
}
NOTES = Notes(
    description="Inference in OpenAI's protocol: any client of OpenAI's works with it.",
    refusals={"chat_completions": (404,), "completions": (404,)},
    words={"model_id": "a model or an adapter; its name may hold slashes"},
    examples=EXAMPLES,
)


def take_body(operation_id: str) -> dict[str, Any]:
    """What FastAPI cannot see of a route that reads its own body."""
    name = BODIES[operation_id].__name__
    schema = {"$ref": _SCHEMA.format(model=name)}
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def describe_inference(routers: Sequence[APIRouter]) -> Document:
    """The document of the gateway's routes."""
    app = FastAPI(
        title="Foundry data plane",
        version=__version__,
        openapi_url=None,
        servers=[{"url": "/v1"}],
    )
    for router in routers:
        app.include_router(router)
    document = build_document(app, NOTES)
    schemas = document["components"]["schemas"]
    for model in BODIES.values():
        own = model.model_json_schema(ref_template=_SCHEMA)
        schemas |= own.pop("$defs", {}) | {model.__name__: own}
    return document
