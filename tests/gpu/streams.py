"""A random Llama whose shapes the fused kernels take, and streams of segments to run it on.

Shapes: T tokens, H hidden, V vocabulary, N predicted tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from foundry.engines.training.decoder.config import DecoderConfig
from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.files import write_json, write_tensors
from tests.engines.training.conftest import write_tokenizer

Rows = list[dict[str, object]]


def write_model(folder: Path) -> Path:
    """A Hugging Face directory: hidden 256, 4 layers, 4 query and 2 key heads of 64."""
    vocab_size = write_tokenizer(folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "vocab_size": vocab_size,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"eos_token_id": 2, "bos_token_id": 1})
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    with torch.device("meta"):
        model = Decoder(DecoderConfig.load(folder))
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        tensors[name] = 1 + 0.1 * noise if name.endswith("norm.weight") else 0.06 * noise
    write_tensors(folder / "model.safetensors", tensors)
    return folder


@dataclass(frozen=True, slots=True)
class Stream:
    """Random segments, end to end."""

    tokens_T: Tensor
    segments: tuple[int, ...]

    @classmethod
    def draw(cls, segments: Sequence[int], seed: int = 0) -> "Stream":
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randint(3, 250, (sum(segments),), generator=generator), tuple(segments))

    def split(self) -> list["Stream"]:
        """Each segment as a stream of its own."""
        parts = torch.split(self.tokens_T, list(self.segments))
        return [Stream(part, (len(part),)) for part in parts]


def run(model: Decoder, stream: Stream) -> Tensor:
    """Hidden states, shape (T, H), on the model's device."""
    device = model.lm_head.weight.device
    positions_T = torch.cat([torch.arange(n) for n in stream.segments]).to(device)
    hidden_TH: Tensor = model(stream.tokens_T.to(device), positions_T, stream.segments)
    return hidden_TH


def loss_sum(model: Decoder, stream: Stream) -> Tensor:
    """Sum of the next tokens' negative log-probabilities, by torch's own cross entropy."""
    logits_TV = model.lm_head(run(model, stream).to(model.lm_head.weight.dtype)).float()
    targets_T = stream.tokens_T.to(logits_TV.device).roll(-1)
    ends = torch.tensor(stream.segments).cumsum(0) - 1
    keep_T = torch.ones(len(targets_T), dtype=torch.bool)
    keep_T[ends] = False
    keep_T = keep_T.to(logits_TV.device)
    return functional.cross_entropy(logits_TV[keep_T], targets_T[keep_T], reduction="sum")


def draw_rows(count: int = 16) -> Rows:
    """Conversations that a small model can learn."""
    words = ("ab", "cat", "ox", "zebra", "emu", "k", "heron", "newt")
    return [
        {
            "messages": [
                {"role": "user", "content": f"say {words[i % 8]} {'please ' * (i % 3)}"},
                {"role": "assistant", "content": words[i % 8].upper()},
            ]
        }
        for i in range(count)
    ]
