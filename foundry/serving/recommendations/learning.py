"""What a site has learnt: measured corrections, its own trained model, alarms, probed hardware."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, cast

from foundry.engines.budsim.loop import Bias, Correction
from foundry.serving.recommendations.domain import fingerprint

# Beyond this a correction is noise: two questions within it are the same question.
_DIGITS = 2
# Of a probed number that count.
_PROBED_DIGITS = 3


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A registered version of the predictor. Attributes: digest: of its packed artifact."""

    version: str
    digest: str

    @property
    def name(self) -> str:
        """As answers name it: versions are free to choose, digests are not."""
        return f"{self.version}@{self.digest[:8]}"


@dataclass(frozen=True, slots=True)
class Learnt:
    """Attributes:
    model: that predicts; None: the shipped one.
    stale: (catalogue id, engine) → why its predictions are not to be trusted now.
    probed: catalogue id → what was measured, under the names of `Gpu`.
    """

    bias: Bias = field(default_factory=Bias)
    model: TrainedModel | None = None
    stale: Mapping[tuple[str, str], str] = field(default_factory=dict)
    probed: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def corrects(self) -> bool:
        return bool(self.bias.cells or self.stale)

    def notes(self, shown: AbstractSet[tuple[str, str]]) -> tuple[str, ...]:
        """A sentence for each alarm of these accelerators and engines."""
        return tuple(
            f"predictions of {gpu} with {engine} are stale: {reason}; confidence is low until "
            "`foundry budsim recalibrate ENDPOINT` or new windows clear it"
            for (gpu, engine), reason in sorted(self.stale.items())
            if (gpu, engine) in shown
        )


NOTHING = Learnt()


def to_document(learnt: Learnt) -> dict[str, object]:
    """JSON values, in a fixed order; factors are rounded."""
    cells = [
        [*cell, round(one.factor, _DIGITS), round(one.spread, _DIGITS), one.measured_at]
        for cell, one in sorted(learnt.bias.cells.items())
    ]
    model = learnt.model
    return {
        "cells": cells,
        "model": [model.version, model.digest] if model else None,
        "stale": [[*pair, reason] for pair, reason in sorted(learnt.stale.items())],
        "probed": {gpu: dict(values) for gpu, values in sorted(learnt.probed.items())},
    }


def of_document(document: Mapping[str, object]) -> Learnt:
    cells = cast(list[list[Any]], document.get("cells", []))
    stale = cast(list[list[str]], document.get("stale", []))
    model = cast(list[str] | None, document.get("model"))
    return Learnt(
        bias=Bias(
            {
                (gpu, engine, version, target): Correction(factor, spread, measured_at=at)
                for gpu, engine, version, target, factor, spread, at in cells
            }
        ),
        model=TrainedModel(*model) if model else None,
        stale={(gpu, engine): reason for gpu, engine, reason in stale},
        probed=cast(Mapping[str, Mapping[str, float]], document.get("probed", {})),
    )


def digest(learnt: Learnt) -> str:
    """Digest of what moves an answer: neither a newer measurement nor an alarm's wording does."""
    document = to_document(learnt)
    cells = cast(list[list[Any]], document["cells"])
    stale = sorted(list(pair) for pair in learnt.stale)
    return fingerprint({**document, "cells": [cell[:-1] for cell in cells], "stale": stale})


def round_values(values: Mapping[str, float]) -> dict[str, float]:
    """Probed numbers, without their noise."""
    return {name: float(f"{value:.{_PROBED_DIGITS}g}") for name, value in values.items()}
