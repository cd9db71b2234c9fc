"""Learning-rate schedules."""

import math
from typing import Literal


def learning_rate(
    step: float,
    *,
    peak: float,
    total_steps: int,
    warmup_ratio: float,
    kind: Literal["cosine", "linear", "constant"],
) -> float:
    """The rate of optimiser step `step`, counted from 0; between two steps when workers share them.

    Rises linearly over the warm-up, reaching `peak` at its last step, then falls towards zero,
    which it would reach at `total_steps`.
    """
    warmup = math.ceil(total_steps * warmup_ratio)
    if step < warmup:
        return peak * min(1.0, (step + 1) / warmup)
    progress = (step - warmup) / max(1, total_steps - warmup)
    match kind:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - progress)
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * progress))
