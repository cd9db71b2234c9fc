"""Trained weights in the host's memory; the device holds what the passes need.

The device keeps the matrices in the type of the computation, 2 bytes a value in half precision, and
the gradients of one layer at a time. The host keeps the float32 masters, the sums of the gradients
and the optimiser's state, and computes the update: 16 bytes a value with AdamW.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from foundry.engines.training.decoder.casting import dither


class HostMasters:
    """Masters of a model's trained parameters.

    Attributes:
        parameters: on the host, float32; optimiser and checkpoints use these.
    """

    def __init__(self, live: Mapping[str, nn.Parameter]) -> None:
        self._live = dict(live)
        self.parameters = {
            name: nn.Parameter(p.detach().to("cpu", torch.float32, copy=True))
            for name, p in self._live.items()
        }
        self._published = {name: p._version for name, p in self.parameters.items()}
        for name, parameter in self._live.items():
            hook = partial(self._collect, name)
            parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def publish(self) -> None:
        """Bring the device's weights up to the masters that have changed."""
        with torch.no_grad():
            for name, master in self.parameters.items():
                if self._published[name] != master._version:
                    live = self._live[name]
                    live.copy_(dither(master.detach(), live.dtype))
                    self._published[name] = master._version

    def _collect(self, name: str, live: Tensor) -> None:
        """Add a gradient to the host's sum, and free the device's."""
        gradient, live.grad = live.grad, None
        if gradient is None:
            return
        master = self.parameters[name]
        moved = gradient.to("cpu", torch.float32)
        master.grad = moved if master.grad is None else master.grad.add_(moved)
