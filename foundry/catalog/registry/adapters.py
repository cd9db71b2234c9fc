"""A LoRA adapter in PEFT's format: what its configuration and its tensors say."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from foundry.catalog.registry.safetensors import Tensor
from foundry.engines.adapter_config import find_unserved_options
from foundry.engines.model_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS

_LORA_A, _LORA_B = ".lora_A.weight", ".lora_B.weight"
_LAYER = re.compile(r"\.layers\.([0-9]{1,9})\.")
# The projections of Llama and its kin.
_READ_HIDDEN = frozenset(
    {"q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj"}
)
_WRITE_HIDDEN = frozenset({"o_proj", "down_proj"})
# An adapter of thousands of layers that all have the same fault needs one sentence.
_MOST_TENSOR_FAULTS = 3


def find_adapter_config_faults(config: Mapping[str, object]) -> list[str]:
    """Why no engine could serve an adapter with this configuration."""
    found = []
    if config.get("peft_type") != "LORA" or read_rank(config) is None:
        found.append(f"{ADAPTER_CONFIG} must have peft_type LORA and a rank r")
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        found.append(f"{ADAPTER_CONFIG} must have a number lora_alpha")
    targets = config.get("target_modules")
    if not isinstance(targets, str) and not _is_list_of_names(targets):
        found.append(f"{ADAPTER_CONFIG} must list its target_modules")
    if options := find_unserved_options(config):
        found.append(
            f"{ADAPTER_CONFIG} sets {', '.join(option[:80] for option in options)}, which engines "
            "would ignore or refuse: export a plain LoRA, or merge it into its base"
        )
    return found


def read_rank(config: Mapping[str, object]) -> int | None:
    rank = config.get("r")
    return rank if type(rank) is int and rank >= 1 else None


def find_adapter_weight_faults(
    config: Mapping[str, object], tensors: Mapping[str, Tensor]
) -> list[str]:
    """What contradicts the configuration."""
    if not tensors:
        return [f"{ADAPTER_WEIGHTS} has no tensors"]
    rank, targets = read_rank(config), config.get("target_modules")
    named = targets if isinstance(targets, list) else None
    found = [
        fault
        for name, tensor in tensors.items()
        if (fault := _find_tensor_fault(name, tensor, tensors, rank, named))
    ]
    if len(found) > _MOST_TENSOR_FAULTS:
        rest = len(found) - _MOST_TENSOR_FAULTS
        return [*found[:_MOST_TENSOR_FAULTS], f"{rest} more tensors have such faults"]
    return found


def find_base_faults(tensors: Mapping[str, Tensor], base_config: Mapping[str, object]) -> list[str]:
    """Why an adapter cannot have been trained from a base, as far as both say.

    Args:
        base_config: the base's `config.json`.
    """
    hidden, layers = base_config.get("hidden_size"), base_config.get("num_hidden_layers")
    for name, tensor in tensors.items():
        layer = _LAYER.search(name)
        if layer and type(layers) is int and int(layer.group(1)) >= layers:
            return [f"it adapts layer {layer.group(1)[:20]}, and the base has {layers} layers"]
        width = _read_hidden_width(name, tensor)
        if width is not None and type(hidden) is int and width != hidden:
            return [f"{name[:200]} is {width} wide, and the base's hidden size is {hidden}"]
        if ".lm_head.lora_" in name and base_config.get("tie_word_embeddings") is True:
            return [
                "it adapts lm_head, and the base's is its embedding, which engines cannot adapt"
            ]
    return []


def _read_hidden_width(name: str, tensor: Tensor) -> int | None:
    """The side of a known projection that is as wide as the model; None: another tensor."""
    module = name.rpartition(".lora_")[0].rpartition(".")[2]
    if len(tensor.shape) == 2 and module in _READ_HIDDEN and name.endswith(_LORA_A):
        return tensor.shape[1]
    if len(tensor.shape) == 2 and module in _WRITE_HIDDEN and name.endswith(_LORA_B):
        return tensor.shape[0]
    return None


def list_targets(config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The adapted modules: as listed, or where the configuration has a pattern, as found."""
    targets = config.get("target_modules")
    if isinstance(targets, list):
        return tuple(sorted(map(str, targets)))
    return tuple(sorted(set(_list_modules(tensors))))


def _list_modules(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for name in tensors:
        for end in (_LORA_A, _LORA_B):
            if name.endswith(end):
                yield name.removesuffix(end).rpartition(".")[2]


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _find_tensor_fault(
    name: str,
    tensor: Tensor,
    tensors: Mapping[str, Tensor],
    rank: int | None,
    targets: Sequence[str] | None,
) -> str | None:
    end = next((end for end in (_LORA_A, _LORA_B) if name.endswith(end)), None)
    shown = name[:200]
    if end is None:
        return f"{shown} is not part of a LoRA adapter"
    module = name.removesuffix(end)
    if targets is not None and not any(
        module == target or module.endswith(f".{target}") for target in targets
    ):
        return f"{shown} belongs to none of the target_modules"
    size = tensor.shape[0 if end == _LORA_A else 1] if len(tensor.shape) == 2 else None
    if size is None or (rank is not None and size != rank):
        return f"{shown} has shape {list(tensor.shape)}, which does not fit rank {rank}"
    if module + (_LORA_B if end == _LORA_A else _LORA_A) not in tensors:
        return f"{shown} lacks its counterpart"
    return None
