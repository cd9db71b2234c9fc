"""Optimisers by the names that configurations give them."""

from collections.abc import Callable, Mapping

from torch import nn

from foundry.engines.training.config import OptimiserName
from foundry.engines.training.optimisers.adamw import AdamW
from foundry.engines.training.optimisers.adamw_8bit import AdamW8bit
from foundry.engines.training.optimisers.params import Optimiser

OPTIMISERS: Mapping[OptimiserName, Callable[[Mapping[str, nn.Parameter]], Optimiser]] = {
    "adamw": AdamW,
    "adamw-8bit": AdamW8bit,
}
