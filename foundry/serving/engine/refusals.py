"""What the engine refuses, as errors of ours: its library's words stay in its log."""

import logging
import re

from foundry.errors import (
    ContextLengthExceeded,
    EngineFailed,
    FoundryError,
    InvalidArtifact,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    ResourceExhausted,
)

log = logging.getLogger(__name__)

_ENGINE_SUFFIX = re.compile(r" \(parameter=\w+(, value=.*)?\)$", re.DOTALL)
_LIBRARY_TEXT = re.compile(r"validation errors? for |pydantic|Traceback|^<class ")
# `max_tokens=99999 cannot be greater than max_model_len=max_total_tokens=2048. Please request …`
_TOO_MANY_TOKENS = re.compile(r"max_tokens=(\d+) cannot be greater than \D*(\d+)")
_PARAMS = {"input_tokens": "messages", "input_text": "messages"}
_TOO_LONG = ("maximum context length", "max_model_len", "maximum model length")

_NO_MEMORY = ResourceExhausted(
    "the engine has no memory for another adapter; fewer of them at a time "
    "(FOUNDRY_SERVING__MAX_CPU_LORAS) need less"
)
# The engine core hands on whatever its worker raised as one `Exception` with a text, so the text is
# all there is to tell causes apart: (what it contains, what it means). The first that fits counts.
_ADAPTER_CAUSES: tuple[tuple[str, FoundryError], ...] = (
    ("Server shutting down", EngineFailed("the engine is being stopped; a new one takes over")),
    ("No free", Overloaded("every adapter place of the engine is in use; retry in a moment")),
    ("out of memory", _NO_MEMORY),
    ("allocate memory", _NO_MEMORY),
    (
        "max_lora_rank",
        InvalidArtifact(
            "its rank is larger than the engine takes (FOUNDRY_SERVING__MAX_LORA_RANK)"
        ),
    ),
    ("support DoRA", InvalidArtifact("it was trained with DoRA, which the engine cannot serve")),
    (
        "bias is not supported",
        InvalidArtifact("it has bias weights, which the engine cannot serve"),
    ),
    ("target modules", InvalidArtifact("it changes layers that the engine cannot adapt")),
    ("configuration fields", InvalidArtifact("adapter_config.json lacks a field")),
    ("doesn't contain tensors", InvalidArtifact("its files hold no tensors")),
    ("No adapter found", InvalidArtifact("its files are not there any more")),
)


def explain_adapter_refusal(text: str) -> FoundryError:
    """The error for an adapter that the engine could not load.

    Args:
        text: the engine's own; it goes to the log.
    """
    log.warning("the engine could not load an adapter: %s", text)
    for words, error in _ADAPTER_CAUSES:
        if words in text:
            return type(error)(error.message)
    return InvalidArtifact("the engine cannot load it; the engine's log has the cause")


def explain_status(code: int, message: str, param: str | None) -> FoundryError:
    """The error for an answer of the engine with an HTTP status of 400 or more."""
    if code == 404:
        return model_missing_error(message)
    if code == 503:
        log.info("the engine is full: %s", message)
        return queue_full_error()
    if code >= 500:
        log.error("the engine failed on a request: %s", message)
        return EngineFailed("the engine failed while it answered; its log has the cause")
    return explain_client_fault(message, param)


def explain_client_fault(message: str, param: str | None) -> FoundryError:
    """The error for a request that the engine finds wrong.

    Its words about a parameter are made for clients and are kept, those of a library are not.
    """
    if _LIBRARY_TEXT.search(message):
        log.info("the engine refused a request: %s", message)
        return InvalidRequest(f"{param or 'a field of the body'} is not valid", param=param)
    message = _ENGINE_SUFFIX.sub("", message)
    if too_many := _TOO_MANY_TOKENS.search(message):
        return ContextLengthExceeded(
            f"max_tokens is {too_many[1]}, but the model's context holds {too_many[2]} tokens, "
            "the prompt included: ask for fewer",
            param="max_tokens",
        )
    if any(words in message for words in _TOO_LONG):
        return ContextLengthExceeded(message, param=_PARAMS.get(param or "", param))
    return InvalidRequest(message, param=param)


def model_missing_error(message: str) -> ModelNotFound:
    """The engine does not know the adapter that was asked for, by its name inside the engine."""
    log.warning("the engine misses a model: %s", message)
    return ModelNotFound(
        "the model left the engine while the request waited; send the request again", param="model"
    )


def queue_full_error() -> Overloaded:
    return Overloaded("the engine's queue is full; retry after a moment")
