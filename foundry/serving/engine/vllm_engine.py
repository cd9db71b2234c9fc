"""vLLM in this process, with its own OpenAI layer, behind the `Engine` protocol."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError
from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from starlette.datastructures import State
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.generate.base.protocol import StreamOptions
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMNotFoundError
from vllm.lora.request import LoRARequest
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.executor.abstract import Executor

from foundry.errors import EngineFailed, FoundryError, InvalidRequest
from foundry.infra.wire.frames import CallContext, Operation, Usage
from foundry.serving.engine.core_watch import CoreWatch
from foundry.serving.engine.engine import Body, EventStream
from foundry.serving.engine.refusals import (
    explain_adapter_refusal,
    explain_client_fault,
    explain_status,
    model_missing_error,
    queue_full_error,
)
from foundry.validation import describe_problem

_REQUESTS = {"chat": ChatCompletionRequest, "completions": CompletionRequest}
# Larger bodies are validated off the loop that hands tokens on; 8 MiB of text take 32 ms.
THREAD_BYTES = 256 * 1024


class VllmEngine(VLLMEngine):  # type: ignore[misc]
    """Ray's engine class with our start: no placement group and no download, since the replica
    already holds the resources and the files."""

    def __init__(self, llm_config: LLMConfig) -> None:
        super().__init__(llm_config)
        self._client: AsyncLLM | None = None
        self._watch: CoreWatch | None = None
        self._serving: dict[str, Any] = {}
        self._models: Any = None

    @property
    def name(self) -> str:
        model_id: str = self.llm_config.model_id
        return model_id

    async def start(self) -> None:
        source = self.llm_config.model_loading_config.model_source
        args = AsyncEngineArgs(
            model=source, served_model_name=[self.name], **self.llm_config.engine_kwargs
        )
        config = args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
        client = AsyncLLM(
            vllm_config=config,
            executor_class=Executor.get_class(config),
            log_requests=False,
            log_stats=not args.disable_log_stats,
        )
        state = State()
        await init_app_state(
            client,
            state=state,
            args=argparse.Namespace(**(vars(FrontendArgs()) | vars(args))),
            supported_tasks=await client.get_supported_tasks(),
        )
        self._client = client
        self._engine_client = client
        self._models = state.openai_serving_models
        self._serving = {
            "chat": state.openai_serving_chat,
            "completions": state.openai_serving_completion,
        }
        self._running = True

    async def answer(
        self, operation: Operation, body: bytes, context: CallContext
    ) -> Body | EventStream:
        if len(body) < THREAD_BYTES:
            request = self._parse_request(operation, body, context)
        else:
            request = await asyncio.to_thread(self._parse_request, operation, body, context)
        include_usage = _force_usage(request)
        try:
            result = await self._call_openai_layer(operation, request)
        except (GracefulHTTPError, VLLMClientError, ValueError) as error:
            raise _to_refusal(error) from error
        except (EngineDeadError, EngineGenerateError) as error:
            raise EngineFailed("the engine died; a new one is being started") from error
        if isinstance(result, ErrorResponse):
            fault = result.error
            raise explain_status(fault.code, fault.message, fault.param)
        if request.stream:
            return EventStream(result, request.model, include_usage)
        result.model = context.model
        return Body(
            result.model_dump_json().encode(),
            Usage(result.usage.prompt_tokens, result.usage.completion_tokens or 0),
            result.choices[-1].finish_reason,
        )

    def _parse_request(self, operation: Operation, body: bytes, context: CallContext) -> Any:
        try:
            request = _REQUESTS[operation].model_validate_json(body)
        except ValidationError as error:
            raise _to_invalid_request(error, body) from error
        except VLLMClientError as error:
            raise _to_refusal(error) from error
        request.model = context.adapter_uid or self.name
        request.request_id = context.request_id
        return request

    async def _call_openai_layer(self, operation: Operation, request: Any) -> Any:
        serving = self._serving[operation]
        if operation == "chat":
            return await serving.create_chat_completion(request)
        return await serving.create_completion(request)

    async def add_lora(self, uid: str, path: Path) -> None:
        request = LoRARequest(
            lora_name=uid, lora_int_id=self._models.lora_id_counter.inc(1), lora_path=str(path)
        )
        client = self._started_client()
        try:
            added = await client.add_lora(request)
        except EngineDeadError as error:
            raise EngineFailed("the engine died while it loaded an adapter") from error
        # The engine core forwards whatever its worker raised, without a common class.
        except Exception as error:
            raise explain_adapter_refusal(str(error)) from error
        if not added:
            raise explain_adapter_refusal("add_lora returned false")
        self._models.lora_requests[uid] = request

    async def remove_lora(self, uid: str) -> None:
        request = self._models.lora_requests.pop(uid, None)
        if request is not None:
            await self._started_client().remove_lora(request.lora_int_id)

    async def check_health(self) -> None:
        """Raise EngineFailed when the core is dead or answers nothing; neither heals by itself."""
        client = self._started_client()
        try:
            await client.check_health()
        except EngineDeadError as error:
            raise EngineFailed("the engine died") from error
        if self._watch is None:
            # It changes nothing and the core answers it itself.
            self._watch = CoreWatch(client.is_sleeping)
        await self._watch.check()

    async def shutdown(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._client is not None:
            self._client.shutdown()

    def _started_client(self) -> AsyncLLM:
        if self._client is None:
            raise EngineFailed("the engine has not started")
        return self._client


def _force_usage(request: Any) -> bool:
    """Make every event of a stream tell the tokens so far: a cut answer is settled by them.

    Returns:
        Whether the client wants to see the usage at the end.
    """
    if not request.stream:
        return False
    options = request.stream_options
    request.stream_options = StreamOptions(include_usage=True, continuous_usage_stats=True)
    return bool(options and options.include_usage)


def _to_invalid_request(error: ValidationError, body: bytes) -> FoundryError:
    """The first problem in the request's own words."""
    problems = error.errors(include_url=False, include_input=False)
    where, text = describe_problem(problems, orjson.loads(body))
    return InvalidRequest(text, param=where or None)


def _to_refusal(error: Exception) -> FoundryError:
    if isinstance(error, GracefulHTTPError):
        return queue_full_error()
    if isinstance(error, VLLMNotFoundError):
        return model_missing_error(str(error))
    return explain_client_fault(str(error), getattr(error, "parameter", None))
