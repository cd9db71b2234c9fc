"""An adapter against its base."""

from foundry.catalog.registry.adapters import find_base_faults, list_targets
from foundry.catalog.registry.safetensors import Tensor

BASE = {"hidden_size": 64, "num_hidden_layers": 2}


def tensors(module: str, d_in: int, d_out: int, layer: int = 0) -> dict[str, Tensor]:
    name = f"base_model.model.model.layers.{layer}.{module}"
    return {
        f"{name}.lora_A.weight": Tensor("F32", (8, d_in), 0, 0),
        f"{name}.lora_B.weight": Tensor("F32", (d_out, 8), 0, 0),
    }


def test_what_fits_has_no_fault() -> None:
    for module, d_in, d_out in (
        ("self_attn.q_proj", 64, 96),
        ("self_attn.o_proj", 96, 64),
        ("mlp.gate_proj", 64, 256),
        ("mlp.down_proj", 256, 64),
        ("mlp.experts.shared", 1, 1),
    ):
        assert find_base_faults(tensors(module, d_in, d_out, 1), BASE) == []
        assert find_base_faults(tensors(module, d_in, d_out, 1), {}) == []


def test_other_widths_and_more_layers_are_faults() -> None:
    assert find_base_faults(tensors("self_attn.v_proj", 65, 1), BASE) == [
        "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight is 65 wide, and the base's "
        "hidden size is 64"
    ]
    (wide,) = find_base_faults(tensors("mlp.down_proj", 1, 32), BASE)
    assert "mlp.down_proj.lora_B.weight is 32 wide" in wide
    assert find_base_faults(tensors("x.y", 1, 1, 2), BASE) == [
        "it adapts layer 2, and the base has 2 layers"
    ]


def test_an_adapter_of_a_tied_head_is_a_fault() -> None:
    head = {"base_model.model.lm_head.lora_A.weight": Tensor("F32", (8, 64), 0, 0)}
    assert find_base_faults(head, BASE) == []
    (fault,) = find_base_faults(head, BASE | {"tie_word_embeddings": True})
    assert "the base's is its embedding" in fault


def test_a_pattern_of_targets_is_told_by_the_tensors() -> None:
    both = tensors("self_attn.v_proj", 64, 64) | tensors("self_attn.q_proj", 64, 64)
    assert list_targets({"target_modules": ".*_proj"}, both) == ("q_proj", "v_proj")
    assert list_targets({"target_modules": ["v_proj", "q_proj"]}, {}) == ("q_proj", "v_proj")
