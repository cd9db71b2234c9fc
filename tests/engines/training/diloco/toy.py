"""A decoder of a few hundred parameters, and batches for it: a whole fleet in milliseconds."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from foundry.engines.training.diloco.layout import Values
from foundry.engines.training.diloco.replica import Replica
from foundry.engines.training.learner import Learner
from foundry.engines.training.packing import Batch

VOCABULARY = 17


class Toy(nn.Module):
    """Predicts the next token from the one before it; `lm_head` is the embedding."""

    logit_softcap: float | None = None

    def __init__(self, width: int = 8, layers: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.lm_head = nn.Linear(width, VOCABULARY, bias=False)
        self.lm_head.weight = self.embed.weight
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=random))

    def forward(self, tokens_T: Tensor, positions_T: Tensor, segments: Sequence[int]) -> Tensor:
        x_TH: Tensor = self.embed(tokens_T)
        for layer in self.layers:
            x_TH = x_TH + functional.silu(layer(x_TH))
        return x_TH


def learner(seed: int = 0, *, grad_clip: float = 1.0, weight_decay: float = 0.1) -> Learner:
    model = Toy(seed=seed)
    return Learner(
        model,
        dict(model.named_parameters()),
        lr=1e-2,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
    )


def batch(number: int, tokens: int = 24) -> Batch:
    random = torch.Generator().manual_seed(number)
    stream = torch.randint(VOCABULARY, (tokens,), generator=random)
    return Batch(
        tokens_T=stream,
        positions_T=torch.arange(tokens),
        segments=(tokens,),
        sources_N=torch.arange(tokens - 1),
        targets_N=stream[1:],
    )


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in learner.parameters.items()}


def normal(size: int, seed: int) -> Values:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def live(replica: Replica, parameters: dict[str, Tensor]) -> Values:
    """All live parameters as one vector."""
    layout = replica.layout
    return np.concatenate([layout.read(parameters, f) for f in range(layout.fragments)])
