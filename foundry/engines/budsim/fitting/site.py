"""A site's own windows as training rows, and what they say of a model that has not seen them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Self

import numpy as np

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configurations
from foundry.engines.budsim.fitting.rows import Labels, Rows
from foundry.engines.budsim.fitting.splits import Mask
from foundry.engines.budsim.fitting.study import Blend, Extra, Study, mdape, trained
from foundry.engines.budsim.loop import Window, weights
from foundry.engines.budsim.novelty import Seen
from foundry.engines.budsim.operating import points_of
from foundry.engines.budsim.physics import prior
from foundry.engines.budsim.points import ENGINES, Column, Points
from foundry.engines.budsim.prediction import NOVELTIES, Novelty
from foundry.engines.budsim.request import Workload

_POINT = frozenset(item.name for item in fields(Points))
# Study → what a window measures of it, and what the model in use predicts.
_MEASURED = {"tpot": "tpot_ms", "ttft": "ttft_mean_ms"}
_PREDICTED = {"tpot": "tpot_ms", "ttft": "ttft_p50_ms"}
# Of a single deployment this share of the windows, the newest, is left out.
_NEWEST = 0.25
_LEAST = 4


@dataclass(frozen=True, slots=True)
class SiteRow:
    """One window of one deployment.

    Attributes:
        point: under the names of `Points`.
        actual: metric → measured value; latencies in ms.
        predicted: metric → the point that was predicted, without correction.
        started_at: Unix seconds.
    """

    deployment: str
    gpu: str
    engine: str
    engine_version: str
    started_at: float
    n: int
    point: Mapping[str, float]
    actual: Mapping[str, float]
    predicted: Mapping[str, float]

    @classmethod
    def of(cls, outcome: Mapping[str, Any]) -> Self:
        """Of an outcome as the API writes it."""
        applied = outcome["applied"]
        return cls(
            deployment=str(outcome["endpoint_id"]),
            gpu=outcome["gpu"],
            engine=outcome["engine"],
            engine_version=outcome["engine_version"],
            started_at=datetime.fromisoformat(str(outcome["started_at"])).timestamp(),
            n=outcome["n"],
            point=outcome["point"],
            actual=outcome["actual"],
            predicted={
                name: ends[1] / applied.get(name, (1.0, 1.0))[0]
                for name, ends in outcome["predicted"].items()
            },
        )

    @property
    def usable(self) -> bool:
        """Its operating point is known and both targets are measured and predicted."""
        values = [self.actual.get(name, 0.0) for name in _MEASURED.values()]
        values += [self.predicted.get(name, 0.0) for name in _PREDICTED.values()]
        values.append(self.actual.get("ttft_p50_ms", 0.0))
        return self.point.keys() == _POINT and all(value > 0.0 for value in values)


def site_point(
    spec: ModelSpec, configurations: Configurations, workload: Workload, catalogue: Catalogue
) -> dict[str, float]:
    """The operating point of one configuration under a closed workload.

    Empty where requests wait for a slot: their TTFT says nothing of a step.
    """
    assert workload.users is not None
    batch = workload.users / float(configurations.replicas[0])
    if batch > float(configurations.max_num_seqs[0]):
        return {}
    points = replace(
        points_of(spec, configurations, workload, catalogue), batch=np.asarray([batch])
    )
    return {name: float(getattr(points, name)[0]) for name in sorted(_POINT)}


@dataclass(frozen=True)
class Site:
    """The usable windows of a site, N of them.

    Attributes:
        weight: (N,), by age and engine version.
        deployment: (N,).
        incumbent: study → log(measured ÷ predicted) of the model in use, (N,).
    """

    rows: Rows
    weight: Column
    deployment: Labels
    incumbent: Mapping[str, Column]
    started_at: Column

    def extra(self, study: Study) -> Extra:
        target = np.log(self.rows.targets[_MEASURED[study.name]] / 1e3)
        return Extra(self.rows, target, self.weight)

    def left_out(self) -> Iterator[tuple[str, Mask]]:
        """Each deployment once; of a single one its newest quarter, forward in time."""
        names = np.unique(self.deployment)
        if len(names) > 1:
            for name in names.tolist():
                yield name, self.deployment == name
        elif len(self.rows) >= _LEAST:
            newest = np.argsort(np.argsort(self.started_at, kind="stable"), kind="stable")
            yield names.tolist()[0], newest >= round(len(newest) * (1 - _NEWEST))


def site_of(outcomes: Sequence[SiteRow], base: Rows) -> Site | None:
    """None: no window is usable. Its labels are those of `base` where shapes are equal."""
    kept = sorted((row for row in outcomes if row.usable), key=lambda row: row.started_at)
    if not kept:
        return None
    points = Points(
        **{name: np.asarray([row.point[name] for row in kept]) for name in sorted(_POINT)}
    )
    targets = {name: np.asarray([row.actual[name] for row in kept]) for name in _MEASURED.values()}
    gpu = np.asarray([row.gpu for row in kept])
    engine = np.asarray([ENGINES[int(row.point["engine"])] for row in kept])
    configuration = np.asarray([repr(sorted(row.point.items())) for row in kept])
    rows = Rows(points, gpu, gpu, engine, configuration, targets)
    known = dict(zip(base.architecture.tolist(), base.model.tolist(), strict=True))
    models = [known.get(shape, f"site {shape}") for shape in rows.architecture.tolist()]
    return Site(
        replace(rows, model=np.asarray(models)),
        _weights(kept),
        np.asarray([row.deployment for row in kept]),
        {
            study: np.asarray([np.log(row.actual[name] / row.predicted[name]) for row in kept])
            for study, name in _PREDICTED.items()
        },
        np.asarray([row.started_at for row in kept]),
    )


def _weights(rows: Sequence[SiteRow]) -> Column:
    """Of windows in order of time; the version that was measured last counts in full."""
    newest = {(row.gpu, row.engine): row.engine_version for row in rows}
    found = np.empty(len(rows))
    windows = [
        Window(
            row.deployment, row.gpu, row.engine, row.engine_version, row.n, {}, {}, row.started_at
        )
        for row in rows
    ]
    for pair, version in newest.items():
        mine = np.asarray([(row.gpu, row.engine) == pair for row in rows])
        chosen = [window for window, own in zip(windows, mine, strict=True) if own]
        found[mine] = weights(chosen, version, rows[-1].started_at)
    return found


def joined(base: Points, more: Points) -> Points:
    """The points of both, in order."""
    return Points(
        **{
            name: np.concatenate([getattr(base, name), getattr(more, name)])
            for name in sorted(_POINT)
        }
    )


def site_scores(
    site: Site, studies: Sequence[Study], blends: Mapping[str, Mapping[Novelty, Blend]]
) -> dict[str, list[float]]:
    """Deployment → errors of the model in use and of the new one on windows that it has not
    seen: mean over the studies of the MdAPE, %.

    Args:
        studies: with the site's rows as `extra`.
        blends: study → by novelty.
    """
    found: dict[str, list[float]] = {}
    for name, left in site.left_out():
        errors = np.asarray([_errors(site, study, left, blends[study.name]) for study in studies])
        found[name] = [round(float(error), 2) for error in errors.mean(axis=0)]
    return found


def _errors(
    site: Site, study: Study, left: Mask, blends: Mapping[Novelty, Blend]
) -> tuple[float, float]:
    assert study.extra is not None
    ensemble = trained(study, np.ones(len(study.rows), dtype=bool), ~left)
    points = site.rows.points.take(left)
    seen = Seen.of(joined(study.rows.points, site.rows.points.take(~left)))
    novelty, terms = seen.novelty(points), prior(points)
    logs = np.empty(len(points))
    for code in np.unique(novelty):
        some = novelty == code
        logs[some] = ensemble.predict(points, terms, blends[NOVELTIES[code]])[some]
    return mdape(-site.incumbent[study.name][left]), mdape(logs - study.extra.log_target[left])
