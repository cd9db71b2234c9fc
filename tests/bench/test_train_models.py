"""What a training step costs, counted by hand."""

from pathlib import Path

import torch

from foundry.engines.training.files import write_json, write_tensors
from tests.bench.machine import list_cpu_flags, read_peak_memory
from tests.bench.train_models import Cost


def test_the_cost_of_a_step_is_what_the_shapes_say(tmp_path: Path) -> None:
    """Hidden 4, two heads of 2, one layer: q and down only, rank 1."""
    config = {"hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 10}
    write_json(tmp_path / "config.json", config)
    tensors = {
        "model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4),
        "model.layers.0.mlp.down_proj.weight": torch.zeros(4, 6),
        "model.layers.0.input_layernorm.weight": torch.zeros(4),
        "model.embed_tokens.weight": torch.zeros(10, 4),
    }
    write_tensors(tmp_path / "model.safetensors", tensors)
    cost = Cost.of(tmp_path, rank=1)
    assert cost == Cost(projections=16 + 24, adapters=8 + 10, head=40, attention=4)
    # Five tokens in two sequences, of which two are trained.
    assert cost.count_flops([3, 2], 2) == 5 * (4 * 40 + 6 * 18) + 6 * 4 * (9 + 4) + 4 * 40 * 2


def test_the_processor_names_known_flags_only() -> None:
    assert set(list_cpu_flags().split()) <= {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}


def test_peak_memory_holds_what_is_resident() -> None:
    before = read_peak_memory()
    held = torch.ones(32, 2**20)
    assert before <= (after := read_peak_memory())
    assert after > held.nbytes
