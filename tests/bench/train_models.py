"""The models of the training benchmarks: the demo's, and random ones in other families' shapes.

A random model has about 100M weights and the demo model's tokenizer, so that its rows are the same
tokens. transformers writes its directory: neither side of a comparison has a say in the weights.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from foundry.engines.training.files import whole_directory
from foundry.engines.training.gguf_import import bundled_gguf, convert_gguf

DEMO = "smollm2-135m-instruct"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

# Proportions of Qwen2.5-0.5B, gemma-2-2b and gemma-3-270m: heads, feed-forward, windows, caps.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2.5": {
        "model_type": "qwen2",
        "hidden_size": 640,
        "intermediate_size": 2560,
        "num_hidden_layers": 12,
        "num_attention_heads": 10,
        "num_key_value_heads": 2,
    },
    "gemma2": {
        "model_type": "gemma2",
        "hidden_size": 640,
        "intermediate_size": 2560,
        "num_hidden_layers": 10,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 256,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "sliding_window": 512,
    },
}


def find_model(cache: Path, name: str) -> Path:
    """The directory of the demo's model or of a shape; made if it is not there."""
    target = cache / (DEMO if name == DEMO else f"random-{name}")
    if not target.is_dir():
        with whole_directory(target) as staging:
            if name == DEMO:
                convert_gguf(bundled_gguf(), staging)
            else:
                _write_random_model(SHAPES[name], find_model(cache, DEMO), staging)
    return target


def _write_random_model(shape: dict[str, Any], demo: Path, staging: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    template = json.loads((demo / "config.json").read_text())
    special = {key: template[key] for key in ("bos_token_id", "eos_token_id") if key in template}
    config = AutoConfig.for_model(
        **shape,
        **special,
        pad_token_id=template.get("pad_token_id", template["eos_token_id"]),
        vocab_size=template["vocab_size"],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.float32).save_pretrained(staging)
    for name in (*_TOKENIZER_FILES, "chat_template.jinja"):
        if (demo / name).is_file():
            shutil.copyfile(demo / name, staging / name)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one step of LoRA must multiply and add, whoever computes it.

    Two FLOP per weight forward and two for the input's gradient; two more for an adapter's own
    gradient, which a frozen weight has not. Attention counts the half that causality leaves. The
    head works on the trained tokens only. The first layer's input needs no gradient, which is left
    out: it is a third of a percent.

    Attributes:
        projections: weights of the layers' matrices.
        adapters: weights of both factors of all adapters.
        head: weights of the output projection.
        attention: layers · query heads · head size.
    """

    projections: int
    adapters: int
    head: int
    attention: int

    @classmethod
    def of(cls, model_dir: Path, rank: int) -> "Cost":
        """Read the sizes of the checkpoint's matrices; every projection has an adapter."""
        config = json.loads((model_dir / "config.json").read_text())
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        projections = adapters = 0
        for path in sorted(model_dir.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - the handle is no mapping
                    if name.endswith("_proj.weight"):
                        outputs, inputs = file.get_slice(name).get_shape()
                        projections += outputs * inputs
                        adapters += rank * (outputs + inputs)
        return cls(
            projections,
            adapters,
            config["vocab_size"] * config["hidden_size"],
            config["num_hidden_layers"] * heads * head_dim,
        )

    def count_flops(self, lengths: Sequence[int], trained: int) -> int:
        """FLOP of one step over sequences of these lengths, of whose tokens `trained` are."""
        per_token = 4 * self.projections + 6 * self.adapters
        # Scores and their use: 2 products of 2·L²·D each, halved; the backward pass has twice that.
        attention = 3 * 2 * self.attention * sum(length**2 for length in lengths)
        return per_token * sum(lengths) + attention + 4 * self.head * trained
