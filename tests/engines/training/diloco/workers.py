"""Replicas around parameters that a test moves as it likes."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from foundry.engines.training.diloco import config as cfg
from foundry.engines.training.diloco.config import OuterConfig
from foundry.engines.training.diloco.replica import Replica, Values
from tests.engines.training.diloco import toy

LOSSY: dict[str, cfg.Codec] = {
    "int8": cfg.Int8(),
    "e3m0": cfg.E3m0(),
    "topk": cfg.TopK(),
    "topk_quarter": cfg.TopK(density=0.25),
}
ALL: dict[str, cfg.Codec] = {"fp32": cfg.Fp32(), "bf16": cfg.Bf16(), **LOSSY}
lossy = pytest.mark.parametrize("codec", LOSSY.values(), ids=LOSSY.keys())
every_codec = pytest.mark.parametrize("codec", ALL.values(), ids=ALL.keys())
SHAPES = {
    "model.embed.weight": (90, 100),
    "model.layers.0.weight": (70, 71),
    "model.layers.1.weight": (4097,),
    "model.layers.2.weight": (33,),
    "model.norm.weight": (33,),
}


@dataclass
class Worker:
    config: OuterConfig
    parameters: dict[str, Tensor] = field(init=False)
    replica: Replica = field(init=False)

    def __post_init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.parameters = {
            name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()
        }
        self.replica = Replica(self.parameters, self.config)

    def train(self, work: Values, fragment: int = 0) -> Values:
        """Move the fragment's live parameters by -work. Returns the outer gradient that it has."""
        layout = self.replica.layout
        layout.write(layout.read(self.parameters, fragment) - work, self.parameters, fragment)
        theta = self.replica.state.theta[layout.slice(fragment)]
        return theta - layout.read(self.parameters, fragment)

    def seen(self, fragment: int, payloads: list[bytes]) -> Values:
        """What the others read from an offer."""
        cuts = self.replica.cuts(fragment, len(payloads))
        return np.concatenate(
            [
                self.replica.reduce(fragment, cut, [payload], [1.0])
                for cut, payload in zip(cuts, payloads, strict=True)
            ]
        )

    @property
    def live(self) -> Values:
        return toy.live(self.replica, self.parameters)


def outer(codec: cfg.Codec | None = None, **options: object) -> OuterConfig:
    return OuterConfig.model_validate({"codec": codec or cfg.Fp32(), "inner_steps": 6, **options})


def size(worker: Worker, fragment: int = 0) -> int:
    bounds = worker.replica.layout.bounds
    return bounds[fragment + 1] - bounds[fragment]


def scattered(workers: list[Worker], fragment: int) -> tuple[Values, Values]:
    """One exchange in which each worker reduces its part: the true mean, and what all see."""
    parts = len(workers)
    offers = [worker.replica.offer(fragment, parts) for worker in workers]
    cuts = workers[0].replica.cuts(fragment, parts)
    means, forwarded = [], []
    for part, (worker, cut) in enumerate(zip(workers, cuts, strict=True)):
        payloads = [offer[part] for offer in offers]
        mean = worker.replica.reduce(fragment, cut, payloads, [1.0, 2.0, 1.0])
        means.append(mean)
        forwarded.append(worker.replica.forward(fragment, cut, mean))
    assembled = [worker.replica.assemble(fragment, forwarded) for worker in workers]
    assert len({values.tobytes() for values in assembled}) == 1
    return np.concatenate(means), assembled[0]
