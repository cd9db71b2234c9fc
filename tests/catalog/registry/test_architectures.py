"""The list of architectures against the engine that is installed."""

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from foundry.catalog.registry.architectures import is_served, list_served_architectures

_TABLES = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS")


def _read_registry() -> set[str]:
    """Read, not imported: that takes half a minute and an accelerator's libraries."""
    vllm = find_spec("vllm")
    if vllm is None or vllm.origin is None:
        pytest.skip("no engine is installed")
    source = Path(vllm.origin).with_name("model_executor") / "models" / "registry.py"
    found: set[str] = set()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            name = node.targets[0]
            if isinstance(name, ast.Name) and name.id in _TABLES:
                found |= {
                    str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)
                }
    return found


def test_every_model_of_the_engine_is_listed() -> None:
    theirs = _read_registry()
    assert len(theirs) > 200
    assert theirs <= list_served_architectures()


def test_what_answers_no_chat_is_not_served() -> None:
    assert is_served("LlamaForCausalLM")
    for name in ("BertModel", "LlamaForSequenceClassification", "UNet2DConditionModel", ""):
        assert not is_served(name)
