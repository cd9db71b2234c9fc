"""The engine's refusals in our words: its own are logged, and never reach a client."""

import logging

import pytest

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
from foundry.serving.engine.refusals import explain_adapter_refusal, explain_status

_FAILED = "Call to add_lora method failed: "
_NO_MEMORY = (
    "the engine has no memory for another adapter; fewer of them at a time "
    "(FOUNDRY_SERVING__MAX_CPU_LORAS) need less"
)

ADAPTERS: list[tuple[str, type[FoundryError], str]] = [
    ("Server shutting down", EngineFailed, "the engine is being stopped; a new one takes over"),
    (
        f"{_FAILED}No free lora slots",
        Overloaded,
        "every adapter place of the engine is in use; retry in a moment",
    ),
    (f"{_FAILED}CUDA out of memory. Tried to allocate 2.00 GiB", ResourceExhausted, _NO_MEMORY),
    (
        f"{_FAILED}[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes",
        ResourceExhausted,
        _NO_MEMORY,
    ),
    (
        f"{_FAILED}LoRA rank 64 is greater than max_lora_rank 16.",
        InvalidArtifact,
        "its rank is larger than the engine takes (FOUNDRY_SERVING__MAX_LORA_RANK)",
    ),
    (
        f"{_FAILED}vLLM does not yet support DoRA.",
        InvalidArtifact,
        "it was trained with DoRA, which the engine cannot serve",
    ),
    (
        f"{_FAILED}Adapter bias is not supported.",
        InvalidArtifact,
        "it has bias weights, which the engine cannot serve",
    ),
    (
        f"{_FAILED}While loading /w/x, expected target modules in {{'q_proj'}} but received ['x'].",
        InvalidArtifact,
        "it changes layers that the engine cannot adapt",
    ),
    (
        f"{_FAILED}Missing required configuration fields: {{'r'}}",
        InvalidArtifact,
        "adapter_config.json lacks a field",
    ),
    (f"{_FAILED}/w/x doesn't contain tensors", InvalidArtifact, "its files hold no tensors"),
    (
        f"{_FAILED}Loading lora a1 failed: No adapter found for /w/x",
        InvalidArtifact,
        "its files are not there any more",
    ),
    (
        f"{_FAILED}'NoneType' object is not subscriptable",
        InvalidArtifact,
        "the engine cannot load it; the engine's log has the cause",
    ),
]


@pytest.mark.parametrize(("text", "kind", "message"), ADAPTERS)
def test_adapters(
    text: str, kind: type[FoundryError], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        error = explain_adapter_refusal(text)
    assert (type(error), error.message) == (kind, message)
    assert text in caplog.text


@pytest.mark.parametrize(
    ("code", "text", "param", "kind", "message", "told"),
    [
        (
            400,
            "top_p must be in (0, 1], got 2.0. (parameter=top_p, value=2.0)",
            "top_p",
            InvalidRequest,
            "top_p must be in (0, 1], got 2.0.",
            "top_p",
        ),
        (
            400,
            "1 validation error for ChatCompletionRequest\n  Input should be a valid string",
            "stop",
            InvalidRequest,
            "stop is not valid",
            "stop",
        ),
        (
            400,
            "This model's maximum context length is 2048 tokens.",
            "input_tokens",
            ContextLengthExceeded,
            "This model's maximum context length is 2048 tokens.",
            "messages",
        ),
        (
            400,
            "max_tokens=99999 cannot be greater than max_model_len=max_total_tokens=2048. Please "
            "request fewer output tokens. (parameter=max_tokens, value=99999)",
            "max_tokens",
            ContextLengthExceeded,
            "max_tokens is 99999, but the model's context holds 2048 tokens, the prompt included: "
            "ask for fewer",
            "max_tokens",
        ),
        (
            404,
            "The model `a0000` does not exist.",
            None,
            ModelNotFound,
            "the model left the engine while the request waited; send the request again",
            "model",
        ),
        (
            503,
            "GracefulHTTPError: queue",
            None,
            Overloaded,
            "the engine's queue is full; retry after a moment",
            None,
        ),
        (
            500,
            "EngineCore encountered an issue. See stack trace above.",
            None,
            EngineFailed,
            "the engine failed while it answered; its log has the cause",
            None,
        ),
    ],
)
def test_requests(
    code: int, text: str, param: str | None, kind: type[FoundryError], message: str, told: str
) -> None:
    error = explain_status(code, text, param)
    assert (type(error), error.message, error.details.get("param")) == (kind, message, told)
