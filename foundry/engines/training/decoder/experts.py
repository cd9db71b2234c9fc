"""Routed feed-forward networks (arXiv:2101.03961, arXiv:2401.04088).

Shapes: T tokens, H hidden, F inner size of an expert, E experts, K experts per token, N = T·K.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from foundry.engines.training.decoder.casting import CastOnce
from foundry.engines.training.decoder.config import Activation, Experts
from foundry.engines.training.decoder.kernels import gated_projection


class Router(nn.Module):
    """Which experts a token is sent to, and with what weights; in float32 throughout."""

    def __init__(self, hidden_size: int, config: Experts) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.count, hidden_size))

    def forward(self, x_TH: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and experts of each token, shape (T, K)."""
        wide = torch.float64 if x_TH.dtype == torch.float64 else torch.float32
        logits_TE = functional.linear(x_TH.to(wide), self.weight.to(wide))
        weights_TK, experts_TK = logits_TE.softmax(-1).topk(self.config.per_token)
        if self.config.normalised:
            weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
        return weights_TK, experts_TK


class ExpertBank(nn.Module):
    """The matrices of all experts, each kind in one tensor."""

    def __init__(self, hidden_size: int, config: Experts) -> None:
        super().__init__()
        self.gate_proj = nn.Parameter(torch.empty(config.count, config.width, hidden_size))
        self.up_proj = nn.Parameter(torch.empty(config.count, config.width, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(config.count, hidden_size, config.width))


class SparseMLP(nn.Module):
    """Each token goes through a few experts; tokens are sorted so that each expert runs once.

    How a token's sums are rounded depends on how many others share its expert, so unlike in a dense
    model, changing one segment may change the last bits of another.
    """

    def __init__(self, hidden_size: int, config: Experts, activation: Activation) -> None:
        super().__init__()
        self.gate = Router(hidden_size, config)
        self.experts = ExpertBank(hidden_size, config)
        self.activation = activation
        self._narrow = tuple(CastOnce() for _ in self.experts.parameters())

    def forward(self, x_TH: Tensor) -> Tensor:
        weights_TK, experts_TK = self.gate(x_TH)
        order_N = experts_TK.flatten().argsort(stable=True)
        tokens_N = order_N // experts_TK.shape[1]
        counts = torch.bincount(experts_TK.flatten(), minlength=self.gate.config.count).tolist()
        out_NH = torch.cat(
            [
                self._run(part, gate, up, down)
                for part, gate, up, down in zip(
                    torch.split(x_TH.index_select(0, tokens_N), counts),
                    # Unbound once: the gradient of each slice alone would be as large as the bank.
                    *(
                        narrow(bank, x_TH.dtype).unbind()
                        for narrow, bank in zip(
                            self._narrow, self.experts.parameters(), strict=True
                        )
                    ),
                    strict=True,
                )
                if len(part)
            ]
        )
        scaled_NH = out_NH * weights_TK.flatten()[order_N].unsqueeze(-1)
        return torch.zeros_like(x_TH).index_add(0, tokens_N, scaled_NH.to(x_TH.dtype))

    def _run(self, x_NH: Tensor, gate_FH: Tensor, up_FH: Tensor, down_HF: Tensor) -> Tensor:
        return gated_projection(
            functional.linear(x_NH, gate_FH),
            functional.linear(x_NH, up_FH),
            down_HF,
            None,
            None,
            0.0,
            activation=self.activation,
        )
