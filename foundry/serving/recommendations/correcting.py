"""What deployments taught, applied to what is predicted and searched next."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from foundry.engines.budsim.loop import corrected
from foundry.engines.budsim.prediction import METRICS, Predictions, inverse
from foundry.engines.budsim.request import RUNTIMES
from foundry.serving.recommendations.learning import Learnt, digest

if TYPE_CHECKING:
    from foundry.engines.budsim.configuration import Bools, Configuration, Configurations
    from foundry.engines.budsim.explanation import Breakdown, Explains

_LOW = 0


@dataclass(frozen=True, slots=True)
class CorrectedPredictor:
    """A predictor whose answers carry the corrections and the alarms of this site."""

    model: "Explains"
    learnt: Learnt

    @property
    def version(self) -> str:
        return f"{self.model.version}+{digest(self.learnt)[:8]}"

    def predict(
        self, spec: Any, configurations: "Configurations", *args: Any, **options: Any
    ) -> Predictions:
        found = self.model.predict(spec, configurations, *args, **options)
        shown: dict[str, Any] = {}
        for name in METRICS:
            factor, spread = self.learnt.bias.columns(configurations, name)
            shown[name] = corrected(getattr(found, name), factor, spread)
        cost = inverse(shown["throughput_tps"], found.cost_per_hour * 1e6 / 3600.0)
        confidence = np.where(self._stale(configurations), _LOW, found.confidence)
        return replace(found, **shown, cost_per_mtok=cost, confidence=confidence)

    def breakdown(
        self, spec: Any, configuration: "Configuration", *args: Any, **options: Any
    ) -> "Breakdown":
        return self.model.breakdown(spec, configuration, *args, **options)

    def _stale(self, configurations: "Configurations") -> "Bools":
        found = np.zeros(len(configurations), dtype=bool)
        for gpu, engine in self.learnt.stale:
            if gpu in configurations.gpus and engine in RUNTIMES:
                found |= (configurations.gpu == configurations.gpus.index(gpu)) & (
                    configurations.runtime == RUNTIMES.index(engine)
                )
        return found
