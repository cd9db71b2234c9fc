"""How many layers compute their activations twice, so that what the others keep fits a budget.

A layer that is computed again in the backward pass keeps its input only (arXiv:1604.06174) and
costs a third more time. Which micro-batch needs it depends on its length, so the number is chosen
anew for each; it changes nothing in the result.

Shapes: T tokens, H hidden.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from foundry.engines.training.decoder.model import Decoder

_PROBES = (64, 128)
# Of what is free: the rest is for logits, the largest layer's gradients, and fragmentation.
_SHARE = 0.8
# float32 gradient and two float32 moments, and the copy in the type of the computation.
_BYTES_PER_TRAINED = 14
_CGROUP = Path("/sys/fs/cgroup")


class ActivationBudget:
    """Sets `recomputed_layers` of a model before each training pass.

    Attributes:
        limit: bytes that the layers' activations may take.
    """

    def __init__(
        self, model: Decoder, parameters: Iterable[nn.Parameter], limit: int | Literal["auto"]
    ) -> None:
        """Measure the model with two short passes.

        Args:
            parameters: those that are trained; their gradients and moments are still to come.
            limit: auto: what is free on the device after those.
        """
        self._model = model
        self._layers = len(model.model.layers)
        device = model.lm_head.weight.device
        if limit == "auto":
            trained = sum(p.numel() for p in parameters if p.device == device)
            limit = int(_SHARE * (find_free_bytes(device) - _BYTES_PER_TRAINED * trained))
        self.limit = max(limit, 0)
        self._kept = measure_bytes_per_token(model) / self._layers
        # Between layers values may be float32 whatever the layers compute in.
        self._input = model.config.hidden_size * 4

    def apply(self, tokens: int) -> None:
        """Choose for a pass of so many tokens."""
        self._model.recomputed_layers = self.count_layers(tokens)

    def count_layers(self, tokens: int) -> int:
        """The fewest layers to recompute; all of them where even that is not enough."""
        excess = tokens * self._kept * self._layers - self.limit
        saved = tokens * max(self._kept - self._input, 1.0)
        return min(self._layers, max(0, math.ceil(excess / saved)))


def measure_bytes_per_token(model: Decoder) -> float:
    """What all layers together keep of a token for the backward pass.

    Two lengths are compared: what does not grow with them, such as casts of weights, cancels out.
    """
    training, recomputed = model.training, model.recomputed_layers
    model.train()
    model.recomputed_layers = 0
    short, long = (_measure_kept_bytes(model, tokens) for tokens in _PROBES)
    model.train(training)
    model.recomputed_layers = recomputed
    return (long - short) / (_PROBES[1] - _PROBES[0])


def _measure_kept_bytes(model: Decoder, tokens: int) -> int:
    kept: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        # Held until the end: else a later tensor could lie at the same place.
        held.append(tensor)
        return tensor

    device = model.lm_head.weight.device
    tokens_T = torch.zeros(tokens, dtype=torch.long, device=device)
    positions_T = torch.arange(tokens, device=device)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(tokens_T, positions_T, (tokens,))
    return sum(kept.values())


def find_free_bytes(device: torch.device) -> int:
    """Memory that this process could still take on a device."""
    if device.type != "cpu":
        backend = getattr(torch, device.type)
        free, _ = backend.mem_get_info(device)
        # What torch holds but does not use is free to it.
        return int(free + backend.memory_reserved(device) - backend.memory_allocated(device))
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - used)
