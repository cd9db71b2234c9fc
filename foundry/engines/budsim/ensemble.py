"""Members and blends: how a target is predicted, and which prediction a kind of novelty gets.

A member is the calibrated prior itself or a regressor (XGBoost) beside it: `raw` predicts the
target, `residual` the factor between the target and the calibrated prior. A blend is the mean of
some members in logs. What a blend is good for was measured with the groups left out that it is
used for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from foundry.engines.budsim import features
from foundry.engines.budsim.calibration import Calibration, Kind
from foundry.engines.budsim.physics import Prior
from foundry.engines.budsim.points import Column, Points

if TYPE_CHECKING:
    from xgboost import Booster

FeatureSet = Literal["full", "lean", "full with room", "lean with room"]


@dataclass(frozen=True, slots=True)
class Member:
    """One predictor of one target.

    Attributes:
        base: calibration it stands on.
        features: that its regressor sees; None: the calibrated prior alone.
        residual: the regressor predicts the factor on the calibrated prior.
        robust: rows far from the calibrated prior count less.
    """

    base: Kind
    features: FeatureSet | None = None
    residual: bool = False
    robust: bool = False

    @property
    def name(self) -> str:
        if self.features is None:
            return f"{self.base}.prior"
        form = "residual" if self.residual else "raw"
        return f"{self.base}.{form}.{self.features}" + (".robust" if self.robust else "")


@dataclass(frozen=True, slots=True)
class Ensemble:
    """The fitted members of one target.

    Attributes:
        calibrations: by kind.
        members: by name.
        boosters: by the member's name, where it has one.
    """

    calibrations: Mapping[Kind, Calibration]
    members: Mapping[str, Member]
    boosters: Mapping[str, "Booster"]

    def predict(self, points: Points, terms: Prior, blend: Mapping[str, float]) -> Column:
        """Log of the target, (N,).

        Args:
            blend: weights of members, summing to 1.
        """
        bases = {
            kind: self.calibrations[kind].log_seconds(points, terms)
            for kind in sorted({self.members[name].base for name in blend})
        }
        total = np.zeros(len(points))
        for name, weight in blend.items():
            member = self.members[name]
            total += weight * self._one(member, points, terms, bases[member.base])
        return total

    def _one(self, member: Member, points: Points, terms: Prior, base: Column) -> Column:
        if member.features is None:
            return base
        table = feature_matrix(member.features, points, terms, base)
        found: Column = self.boosters[member.name].inplace_predict(table).astype(np.float64)
        return found + base if member.residual else found


def feature_matrix(kind: FeatureSet, points: Points, terms: Prior, base: Column) -> features.Matrix:
    """What the regressors of a feature set see, (N, features)."""
    build = features.full if kind.startswith("full") else features.lean
    found = build(points, terms, base)
    return features.matrix(found | features.room(points, terms) if kind.endswith("room") else found)
