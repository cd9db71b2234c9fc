"""OpenAI's routes."""

from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from foundry.errors import ModelNotFound
from foundry.gateway.documentation import ModelCard, ModelCards, take_body
from foundry.gateway.plane import INVOKE, Plane
from foundry.infra.http import require_permission
from foundry.serving.endpoints.domain import ServedModel

router = APIRouter(tags=["inference"], dependencies=[Depends(require_permission(INVOKE))])


def _plane(request: Request) -> Plane:
    plane: Plane = request.app.state.plane
    return plane


@router.post(
    "/chat/completions",
    operation_id="chat_completions",
    openapi_extra=take_body("chat_completions"),
)
async def chat_completions(request: Request) -> Response:
    """Continue a conversation: whole, or with `stream` as server-sent events."""
    return await _plane(request).answer_completion(request, "chat")


@router.post("/completions", operation_id="completions", openapi_extra=take_body("completions"))
async def completions(request: Request) -> Response:
    """Continue a text: whole, or with `stream` as server-sent events."""
    return await _plane(request).answer_completion(request, "completions")


@router.get("/models", operation_id="inference_models", responses={200: {"model": ModelCards}})
async def list_models(request: Request) -> Response:
    """List the models and adapters that this key may use."""
    models = await _plane(request).routing.list_models(request.state.principal)
    return _json_response({"object": "list", "data": [_card(model) for model in models]})


@router.get(
    "/models/{model_id:path}",
    operation_id="inference_model",
    responses={200: {"model": ModelCard}},
)
async def get_model(request: Request, model_id: str) -> Response:
    """Describe one model or adapter."""
    for model in await _plane(request).routing.list_models(request.state.principal):
        if model.id == model_id:
            return _json_response(_card(model))
    raise ModelNotFound(
        f"the model {model_id!r} does not exist or is not yours to use; "
        "GET /v1/models lists what is",
        param="model",
    )


def _card(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "foundry",
        "parent": model.parent,
        "context_length": model.context_length,
        # vLLM's name for the same, which its clients read.
        "max_model_len": model.context_length,
    }


def _json_response(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
