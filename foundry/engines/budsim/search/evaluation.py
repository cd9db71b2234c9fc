"""Predictions of genomes and what the search reads from them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configurations, Floats, Ints
from foundry.engines.budsim.prediction import Predictions
from foundry.engines.budsim.request import ClusterSpec, Method, Request, Workload
from foundry.engines.budsim.search.genome import Space
from foundry.engines.budsim.search.rules import Ground
from foundry.engines.budsim.search.targets import Name, judge, objectives

# Rows per prediction: bounds the memory of an exhaustive search.
CHUNK = 20_000


class Predicts(Protocol):
    """`predictor.Predictor`, or what stands in for it. Rows must not depend on each other."""

    @property
    def version(self) -> str:
        """Of the model; part of the answer's digests."""
        ...

    def predict(
        self,
        spec: ModelSpec,
        configurations: Configurations,
        workload: Workload,
        *,
        catalogue: Catalogue,
        groups: ClusterSpec | None = None,
        confidence: float = 0.9,
        method: Method = "REGRESSOR",
    ) -> Predictions: ...


@dataclass(frozen=True, slots=True)
class Scores:
    """Of N genomes.

    Attributes:
        objectives: (N, 3), minimised; see `targets.objectives`.
        violation: (N,), 0: feasible.
        bounds: (N, targets), the values that are judged; see `targets.limits` for the order.
        unstable: (N,), the part of the violation that no target causes.
    """

    objectives: Floats
    violation: Floats
    bounds: Floats
    unstable: Floats


@dataclass(frozen=True, slots=True)
class Evaluator:
    """One question, asked of many configurations. `yielding` is a target that may be missed."""

    spec: ModelSpec
    request: Request
    catalogue: Catalogue
    predictor: Predicts
    yielding: Name | None = None

    def ground(self) -> Ground:
        """What the configurations stand on."""
        workload = self.request.workload
        tokens = workload.input.mean + workload.output.mean
        return Ground(self.spec, self.catalogue, self.request.cluster, tokens)

    def predict(self, configurations: Configurations) -> Predictions:
        return self.predictor.predict(
            self.spec,
            configurations,
            self.request.workload,
            catalogue=self.catalogue,
            groups=self.request.cluster,
            confidence=self.request.policy.confidence,
            method=self.request.method,
        )

    def score(self, batches: Sequence[tuple[Space, Ints]]) -> list[Scores]:
        """Scores of repaired genomes of several islands; one prediction for all."""
        rows = concatenate([space.decode(genomes) for space, genomes in batches])
        predictions = self.predict(rows)
        judgement = judge(predictions, self.request.targets, self.request.workload)
        columns = (
            objectives(predictions),
            judgement.violation(self.yielding),
            np.column_stack([*judgement.bounds.values(), np.zeros((len(rows), 0))]),
            judgement.unstable,
        )
        ends = np.cumsum([len(genomes) for _, genomes in batches])[:-1]
        parts = zip(*(np.split(column, ends) for column in columns), strict=True)
        return [Scores(*part) for part in parts]


def concatenate(parts: Sequence[Configurations]) -> Configurations:
    """The rows of all parts, in order."""
    gpus = tuple(sorted({gpu for part in parts for gpu in part.gpus}))
    columns = {
        item.name: np.concatenate([getattr(part, item.name) for part in parts])
        for item in fields(Configurations)
        if item.name not in ("gpus", "gpu")
    }
    gpu = [np.asarray([gpus.index(name) for name in part.gpus])[part.gpu] for part in parts]
    return Configurations(gpus=gpus, gpu=np.concatenate(gpu), **columns)
