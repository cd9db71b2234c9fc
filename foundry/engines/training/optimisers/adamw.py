"""AdamW with moments in float32, in torch's fused kernels."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from foundry.engines.training.optimisers.params import AdamParams

_KINDS = ("step", "exp_avg", "exp_avg_sq")


class AdamW:
    """8 bytes of state for every trained value."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = dict(parameters)
        self._torch = torch.optim.AdamW(self._parameters.values(), fused=True)

    def step(self, adam: AdamParams) -> None:
        for group in self._torch.param_groups:
            group.update(
                lr=adam.lr,
                betas=(adam.beta1, adam.beta2),
                eps=adam.eps,
                weight_decay=adam.weight_decay,
            )
        self._torch.step()
        # The fused kernels change parameters without saying so.
        increment_version(list(self._parameters.values()))

    def state(self) -> dict[str, Tensor]:
        return {
            f"{kind}.{name}": value
            for name, parameter in self._parameters.items()
            for kind, value in self._torch.state.get(parameter, {}).items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            self._torch.state.pop(parameter, None)
            if f"step.{name}" in tensors:
                # Moments are updated in place: they must not be the caller's.
                self._torch.state[parameter] = {
                    kind: tensors[f"{kind}.{name}"].clone().to(parameter.device) for kind in _KINDS
                }
