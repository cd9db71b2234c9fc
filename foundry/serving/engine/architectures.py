"""Which architectures the installed engine serves, read from its source.

Importing vLLM takes many seconds and needs torch, which the control plane does without; its tables
of names are literals, as are those of transformers, whose models it serves by its general backend.
"""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_VLLM = ("vllm", "model_executor/models/registry.py")
_VLLM_TABLES = frozenset(
    {
        "_TEXT_GENERATION_MODELS",
        "_MULTIMODAL_MODELS",
        "_TRANSFORMERS_SUPPORTED_MODELS",
        "_TRANSFORMERS_BACKEND_MODELS",
    }
)
_TRANSFORMERS = ("transformers", "models/auto/modeling_auto.py")
_TRANSFORMERS_TABLES = frozenset({"MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"})


@cache
def list_architectures() -> frozenset[str] | None:
    """Names as `architectures` of a config.json has them; None: no engine is installed here."""
    engine = frozenset(_read_names(*_VLLM, _VLLM_TABLES))
    if not engine:
        return None
    return engine | frozenset(_read_names(*_TRANSFORMERS, _TRANSFORMERS_TABLES))


def _read_names(package: str, file: str, tables: frozenset[str]) -> Iterator[str]:
    """The architectures in some tables of a module; it is not imported, and may be absent."""
    spec = importlib.util.find_spec(package)
    source = Path(spec.origin).parent / file if spec is not None and spec.origin else None
    if source is None or not source.is_file():
        return
    for node in ast.parse(source.read_bytes()).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id in tables for target in targets):
            assert isinstance(node, ast.Assign)
            yield from _names_in(node.value)


def _names_in(table: ast.expr) -> Iterator[str]:
    """Keys of a dictionary of architectures; seconds of a list of (model type, architecture)."""
    if isinstance(table, ast.Dict):
        for key in table.keys:
            if isinstance(key, ast.Constant):
                yield str(key.value)
        return
    for node in ast.walk(table):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            yield from (
                part.value
                for part in ast.walk(node.elts[1])
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )
