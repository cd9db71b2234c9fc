"""What every codec refuses, whoever is at fault.

Damage and divergence must stop at the worker where they begin: one value that is not finite would
spread through the mean to all of them.
"""

import numpy as np
from numpy.typing import NDArray

from foundry.errors import InvalidArtifact

Values = NDArray[np.float32]


def require_length(payload: bytes, expected: int) -> None:
    if len(payload) != expected:
        raise InvalidArtifact(
            f"an outer gradient has {len(payload)} bytes where {expected} were expected"
        )


def require_finite(values: Values) -> Values:
    if not np.isfinite(values).all():
        raise InvalidArtifact(
            "an outer gradient is not finite: its worker has diverged, or the payload is damaged"
        )
    return values
