"""Adapters of several trainings beside one frozen projection, and the rows that each acts on.

Shapes: T rows of a stream, I inputs, O outputs, R rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foundry.engines.training.decoder.dropout import Draws


@dataclass(slots=True)
class Adapter:
    """The low-rank update scale·(x·Aᵀ)·Bᵀ of one projection (arXiv:2106.09685).

    Attributes:
        a_RI, b_OR: the two factors.
        scale: alpha/rank.
        dropout: share of the inputs that is dropped in training.
        draws, place: of the dropout masks; no other projection has the same place.
    """

    a_RI: nn.Parameter
    b_OR: nn.Parameter
    scale: float
    dropout: float
    draws: Draws
    place: int

    @classmethod
    def fresh(
        cls,
        weight_OI: Tensor,
        *,
        rank: int,
        alpha: float,
        dropout: float,
        generator: torch.Generator,
        draws: Draws,
        place: int,
    ) -> "Adapter":
        """One that changes nothing yet: B is zero.

        A is drawn on the CPU, so one seed gives the same adapter on every device.
        """
        outputs, inputs = weight_OI.shape
        a = torch.empty(rank, inputs)
        nn.init.kaiming_uniform_(a, a=5**0.5, generator=generator)
        return cls(
            nn.Parameter(a.to(weight_OI.device)),
            nn.Parameter(torch.zeros(outputs, rank, device=weight_OI.device)),
            alpha / rank,
            dropout,
            draws,
            place,
        )

    def mask(self, x: Tensor, passes: int | None = None) -> Tensor:
        """What the inputs are multiplied by. Args: passes: as of `Draws.mask`."""
        return self.draws.mask(x, self.dropout, self.place, passes)


@dataclass(frozen=True, slots=True)
class Route:
    """Neighbouring rows that one adapter acts on.

    Attributes:
        adapter: its name; None: the base alone.
        rows: how many.
        passes: number of the pass among those of this adapter, for its dropout masks.
    """

    adapter: str | None
    rows: int
    passes: int = 0


class Routing:
    """The routes of the present pass, which all projections of a model share.

    Attributes:
        routes: in the order of the rows; they stay until the backward pass is over, because a
            layer may be computed again.
    """

    def __init__(self) -> None:
        self.routes: tuple[Route, ...] = ()

    @property
    def sizes(self) -> list[int]:
        return [route.rows for route in self.routes]
