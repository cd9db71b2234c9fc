"""The same tiny model twice, in transformers and here, and how far they are apart.

Shapes: T tokens of a stream, V vocabulary.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foundry.engines.training.config import Lora
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.files import write_json

# Short, equal to a window or two, and beyond the original contexts of `variants`.
SEGMENTS = (5, 23, 5, 1, 18)


@dataclass(frozen=True, slots=True)
class Differences:
    """The largest ones found.

    Attributes:
        logits: absolute.
        gradients: of each parameter, as a share of its largest gradient, or of 0.01.
        packed: of logits and gradients between packed and unpacked, absolute.
    """

    logits: float
    gradients: float
    packed: float

    def widen(self, other: "Differences") -> "Differences":
        return Differences(
            max(self.logits, other.logits),
            max(self.gradients, other.gradients),
            max(self.packed, other.packed),
        )


def write_reference(document: Mapping[str, Any], model_dir: Path, seed: int = 0) -> Any:
    """A random transformers model with that config.json, saved, with both spellings kept."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = copy.deepcopy(dict(document))
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    _randomise(model, seed)
    model.save_pretrained(model_dir)
    # What transformers has made of it is not what is published.
    write_json(model_dir / "config.json", dict(document))
    return model


@torch.no_grad()
def _randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("norm.weight"):
            parameter.add_(0.1 * noise)
        else:
            parameter.copy_(0.6 / math.sqrt(parameter.shape[-1]) * noise)


def random_stream(vocab_size: int, segments: Sequence[int] = SEGMENTS) -> tuple[Tensor, Tensor]:
    """Tokens and their positions."""
    generator = torch.Generator().manual_seed(1)
    tokens_T = torch.randint(3, vocab_size, (sum(segments),), generator=generator)
    return tokens_T, torch.cat([torch.arange(length) for length in segments])


def compare(model: Decoder, reference: Any, segments: Sequence[int] = SEGMENTS) -> Differences:
    """Logits and gradients of the packed stream, of each segment alone, and of transformers."""
    tokens_T, positions_T = random_stream(model.config.vocab_size, segments)
    packed_TV = model.logits(model(tokens_T, positions_T, segments))
    parts = torch.split(tokens_T, list(segments))
    theirs_TV = torch.cat([reference(part[None]).logits[0] for part in parts])
    direction_TV = torch.randn(packed_TV.shape, generator=torch.Generator().manual_seed(2))
    direction_TV /= len(tokens_T)
    packed = _gradients(model, (packed_TV * direction_TV).sum())
    expected = _gradients(reference, (theirs_TV * direction_TV).sum())
    alone_TV = torch.cat(
        [model.logits(model(part, torch.arange(len(part)), (len(part),))) for part in parts]
    )
    alone = _gradients(model, (alone_TV * direction_TV).sum())
    return Differences(
        logits=(packed_TV - theirs_TV).abs().max().item(),
        gradients=max(
            _share(gradient, _counterpart(name, expected)) for name, gradient in packed.items()
        ),
        packed=max(
            (packed_TV - alone_TV).abs().max().item(),
            *((packed[name] - alone[name]).abs().max().item() for name in packed),
        ),
    )


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in trained.items()
    }


def _share(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp_min(0.01)).item()


def _counterpart(name: str, gradients: Mapping[str, Tensor]) -> Tensor:
    """Of one of our parameters; transformers 5 keeps the gates of all experts with what they gate.

    An adapter is called as PEFT calls it.
    """
    path, _, leaf = name.rpartition(".")
    if leaf in ("lora_A", "lora_B"):
        return gradients[f"base_model.model.{path}.{leaf}.default.weight"]
    if path.endswith("mlp.experts") and leaf != "down_proj":
        both = gradients[f"{path}.gate_up_proj"]
        return both.chunk(2, dim=1)[leaf == "up_proj"]
    return gradients[name]


def adapt(model: Decoder, reference: Any, adapter_dir: Path, method: Lora) -> Any:
    """Put one random adapter on both; the reference becomes PEFT's model."""
    from peft import PeftModel

    lora.attach(model, method, seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    lora.export_adapter(model, method, adapter_dir)
    return PeftModel.from_pretrained(reference, adapter_dir, is_trainable=True)
