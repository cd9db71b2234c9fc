"""Options of PEFT: what engines honour, and what they would drop in silence."""

import json
from pathlib import Path

import pytest

from foundry.engines.adapter_config import find_unserved_options


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha_pattern", {"q_proj": 0.0001}),
        ("rank_pattern", {"q_proj": 4}),
        ("modules_to_save", ["lm_head"]),
        ("use_dora", True),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("layer_replication", [[0, 4], [2, 5]]),
        ("alora_invocation_tokens", [1, 2]),
        ("trainable_token_indices", [3]),
        ("target_parameters", ["experts.down_proj"]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", 7),
        ("use_something_of_2027", {"a": 1}),
    ],
)
def test_what_changes_answers_is_named(name: str, value: object) -> None:
    assert find_unserved_options({"peft_type": "LORA", "r": 8, name: value}) == [name]


def test_what_peft_writes_for_a_plain_adapter_is_honoured(tmp_path: Path) -> None:
    from peft import LoraConfig

    LoraConfig(r=8, lora_alpha=32, target_modules=["q_proj"], use_rslora=True).save_pretrained(
        tmp_path
    )
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert find_unserved_options(written) == []
    for start in (True, False, "gaussian", "eva", "orthogonal"):
        assert find_unserved_options({**written, "init_lora_weights": start}) == []
