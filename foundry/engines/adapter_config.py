"""Which options of PEFT's `adapter_config.json` engines honour.

A list of what is known, not of what is refused: PEFT gains options with every release, and vLLM
drops the ones that it has never heard of in silence, so the adapter would answer differently from
how it was trained.
"""

from collections.abc import Mapping
from typing import Any

# vLLM reads these.
_HONOURED = frozenset({"peft_type", "r", "lora_alpha", "target_modules", "use_rslora"})
# These say how it was trained, or which layers got tensors; the tensors themselves tell that.
_SETTLED = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
# Other starts (PiSSA, OLoRA, CorDA, LoftQ) change the base, so the adapter fits no registered one.
_KEEPS_THE_BASE = (True, False, None, "gaussian", "eva", "orthogonal")


def find_unserved_options(config: Mapping[str, Any]) -> list[str]:
    """Names of the options that the engine would ignore or refuse, in order."""
    return sorted(name for name, value in config.items() if _changes_answers(name, value))


def _changes_answers(name: str, value: object) -> bool:
    if name in _HONOURED or name in _SETTLED:
        return False
    if name == "bias":
        return value not in ("none", None)
    if name == "init_lora_weights":
        return not any(value is known or value == known for known in _KEEPS_THE_BASE)
    return bool(value)
