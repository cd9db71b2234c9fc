"""States of a recommendation, and the question it answers."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from foundry.engines.budsim.request import Request

if TYPE_CHECKING:
    from foundry.serving.recommendations.learning import Learnt

# A search takes a second; after this its process is dead or its question is beyond it.
SEARCH_S = 120.0
# A process that was killed leaves RUNNING behind; a little later somebody else may take over.
ABANDONED_S = SEARCH_S + 15.0
MAX_ATTEMPTS = 3
MAX_WAIT_S = 30
MAX_CONFIGURATIONS = 10_000
MAX_TRACE_ROWS = 20_000


class RecommendationState(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"


ENDED = frozenset({RecommendationState.DONE, RecommendationState.FAILED})


@dataclass(frozen=True, slots=True)
class Question:
    """Everything a search needs: plain values, safe to send to another process.

    Attributes:
        config: the model's `config.json`.
        checkpoint_bytes: of its weight files; None: unknown.
        prices: $ per hour by catalogue id, where they differ from the catalogue's.
        learnt: by the site that asks; None: nothing.
    """

    config: Mapping[str, object]
    checkpoint_bytes: int | None
    request: Request
    prices: Mapping[str, float]
    learnt: "Learnt | None" = None


@dataclass(frozen=True, slots=True)
class Versions:
    """What an answer depends on beside its question.

    Attributes:
        catalogue: digest of the hardware catalogue with the tenant's prices.
        predictor: version of the trained model.
    """

    catalogue: str
    predictor: str


def fingerprint(document: Mapping[str, object]) -> str:
    """sha256 of canonical JSON; equal for equal documents."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
