"""Counts against the modules of transformers, built on the meta device: no weights, no network."""

import re
from functools import cache
from typing import Any

import pytest
import torch

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.model_config import model_spec
from tests.engines.budsim.small_models import CASES


@cache
def built(name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The module of a case on the meta device, and its configuration as a dictionary."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, values = CASES[name]
    config = AutoConfig.for_model(
        model_type, bos_token_id=1, eos_token_id=2, **{"pad_token_id": 0, **values}
    )
    with torch.device("meta"):
        module: torch.nn.Module = AutoModelForCausalLM.from_config(config)
    return module, {**config.to_dict(), **values}


def parameters_of(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def cached_per_token(module: torch.nn.Module, spec: ModelSpec) -> float:
    """Outputs of all layers' key and value projections; of latent attention, what is cached."""
    queries = spec.heads * spec.head_dim
    whole = re.compile(r".*\.(k_proj|v_proj|kv_a_proj_with_mqa)\.weight")
    fused = re.compile(r".*\.((query_key_value|Wqkv|qkv_proj)\.weight|c_attn\.bias)")
    total = 0.0
    for name, parameter in module.named_parameters():
        layer = module.get_submodule(name.rsplit(".", 2)[0]) if name.count(".") > 1 else module
        if "Lightning" in type(layer).__name__:
            continue
        if whole.fullmatch(name):
            total += parameter.shape[0]
        elif fused.fullmatch(name):
            total += parameter.shape[0] - queries
        elif name.endswith("indexer.wk.weight"):
            # The sparse index keeps fp8 keys with an fp32 scale; the unit is two bytes.
            total += (parameter.shape[0] + 4) / 2
    return total


@pytest.mark.parametrize("name", CASES)
def test_parameters_equal_the_module(name: str) -> None:
    module, config = built(name)
    spec = model_spec(config)
    assert spec.parameters == parameters_of(module)
    assert spec.exact


@pytest.mark.parametrize("name", CASES)
def test_cached_values_equal_the_projections(name: str) -> None:
    module, config = built(name)
    spec = model_spec(config)
    cached = (spec.full_layers + spec.sliding_layers) * spec.kv_width
    assert cached == cached_per_token(module, spec)
    assert spec.kv_bytes_per_token(2.0) == spec.full_layers * spec.kv_width * 2


@pytest.mark.parametrize("name", CASES)
def test_layer_kinds_are_derived_where_the_file_lists_none(name: str) -> None:
    """Files written before transformers 5 have no `layer_types`."""
    _, config = built(name)
    given_values = CASES[name][1]
    listed = {"layer_types", "mlp_layer_types", "layers_block_type"} - set(given_values)
    old = {key: value for key, value in config.items() if key not in listed}
    assert model_spec(old) == model_spec(config)


@pytest.mark.parametrize("name", ["mixtral", "deepseek_v3", "qwen3_next", "gpt_oss", "nemotron_h"])
def test_routed_experts_equal_the_module(name: str) -> None:
    module, config = built(name)
    spec = model_spec(config)
    routed = sum(
        parameter.numel()
        for key, parameter in module.named_parameters()
        if re.search(r"\.experts\.", key)
    )
    assert spec.expert_parameters == routed
    idle = routed * (1 - spec.experts_per_token / spec.experts)
    assert spec.active_parameters == pytest.approx(spec.parameters - idle, rel=1e-12)


@pytest.mark.parametrize("name", ["qwen3_next", "bamba", "falcon_h1", "jamba", "minimax"])
def test_state_of_recurrent_layers(name: str) -> None:
    """Values that transformers keeps: the recurrent state in fp32, the convolution's tail in two
    bytes, one entry shorter than the kernel."""
    module, config = built(name)
    expected = 0
    for layer in module.modules():
        kind = type(layer).__name__
        convolution = getattr(layer, "conv1d", None)
        if "Lightning" in kind:
            expected += 6 * 24 * 24 * 4
        elif isinstance(convolution, torch.nn.Conv1d):
            values = {"jamba": 192 * 12, "qwen3_next": 8 * 12 * 20}.get(name, 192 * 20)
            expected += values * 4 + convolution.weight.shape[0] * 3 * 2
    assert model_spec(config).state_bytes == expected > 0
