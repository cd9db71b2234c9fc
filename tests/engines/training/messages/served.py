"""Histories as the installed vLLM renders them: its own preparation, without an engine."""

import asyncio
from pathlib import Path
from typing import Any

from foundry.engines.training.files import write_json
from tests.engines.training.conftest import write_tokenizer
from tests.engines.training.messages.conversations import Row, as_request

_LONGEST = 1_000_000


def write_served_model(model_dir: Path, **tokenizer_fields: Any) -> None:
    """Write the files of a tiny model that vLLM takes for a real one, without weights.

    Args:
        tokenizer_fields: replace fields of the tokenizer's configuration; None removes one.
    """
    import json

    vocab_size = write_tokenizer(model_dir)
    config = json.loads((model_dir / "tokenizer_config.json").read_text()) | tokenizer_fields
    config = {name: value for name, value in config.items() if value is not None}
    write_json(model_dir / "tokenizer_config.json", config)
    write_json(
        model_dir / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": _LONGEST,
            "vocab_size": vocab_size,
            "torch_dtype": "float32",
        },
    )


class ServedRenderer:
    """Renders requests as /v1/chat/completions of the engine does."""

    def __init__(self, model_dir: Path) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.renderers.registry import renderer_from_config

        arguments = EngineArgs(model=str(model_dir), max_model_len=_LONGEST, enforce_eager=True)
        config = arguments.create_engine_config()
        self._model_config = config.model_config
        self._renderer = renderer_from_config(config)
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        self._loop.close()

    def render(
        self, row: Row, through: int | None, template: str | None, *, prompt: bool
    ) -> tuple[str, list[int]] | None:
        """The text and its tokens; None: the template refuses the messages.

        Args:
            through: messages that are sent; None: all.
            template: replaces the model's own.
            prompt: whether the model is asked to reply.
        """
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.renderers.online_renderer import OnlineRenderer

        online = OnlineRenderer(
            self._model_config,
            self._renderer,
            request_logger=None,
            chat_template=template,
            chat_template_content_format="auto",
            enable_auto_tools=True,
            tool_parser="hermes",
        )
        body = {**as_request(row, through), "add_generation_prompt": prompt}
        request = ChatCompletionRequest(model="tiny", **body)
        try:
            answer = self._loop.run_until_complete(online.render_chat(request))
        except ValueError:
            return None
        _, (engine_input,) = answer
        return engine_input.get("prompt", ""), list(engine_input["prompt_token_ids"])
