"""What a configuration will do: latencies, throughput and price, with honest intervals.

`predict` answers for one configuration, `Predictor.predict` for thousands; neither needs a
cluster. Training sources measure at the engine's client, so a gateway's own time comes on top.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.artifact import Artifact, Target, half_width, load
from foundry.engines.budsim.calibration import step_parts, token_parts
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configuration, Configurations, Floats, Ints
from foundry.engines.budsim.curves import FIELDS, Curves, curves
from foundry.engines.budsim.loads import Load, carried
from foundry.engines.budsim.memory import memory_map, sequence_bytes
from foundry.engines.budsim.operating import points_of
from foundry.engines.budsim.physics import prior
from foundry.engines.budsim.prediction import (
    NOVELTIES,
    Estimates,
    Prediction,
    Predictions,
    inverse,
)
from foundry.engines.budsim.request import (
    KV_DTYPES,
    QUANTIZATIONS,
    RUNTIMES,
    ClusterSpec,
    Method,
    Workload,
)

_TPOT, _TTFT, _MEAN_OVER_P50, _P95_OVER_P50 = range(len(FIELDS))
_CONTEXTS = 16
_SHAPES = 50_000
# Codes of `Predictions.confidence`, by novelty: low 0, medium 1, high 2.
_CONFIDENCE = np.asarray([{"seen family": 2, "new model": 1}.get(name, 0) for name in NOVELTIES])
_CONFIDENCE[NOVELTIES.index("new GPU and engine pair")] = 1


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The calibrated prior of one configuration by terms, ms; each mapping sums to its prior."""

    ttft_ms: Mapping[str, float]
    tpot_ms: Mapping[str, float]


class _Shapes:
    """Curves of one model under one workload, drawn when first asked for."""

    def __init__(self) -> None:
        self._at: dict[int, int] = {}
        self._curves: Curves | None = None

    def rows_of(
        self, configurations: Configurations, draw: Callable[[Configurations], Curves]
    ) -> tuple[Curves, Ints]:
        """The curves, and each configuration's row in them."""
        keys, first, inverse = np.unique(
            _shape_keys(configurations), return_index=True, return_inverse=True
        )
        missing = [index for index, key in enumerate(keys.tolist()) if key not in self._at]
        if len(self._at) + len(missing) > _SHAPES:
            self._at, self._curves = {}, None
            missing = list(range(len(keys)))
        if missing:
            drawn = draw(configurations.take(first[missing]))
            start = len(self._at)
            self._at.update({int(keys[index]): start + n for n, index in enumerate(missing)})
            self._curves = drawn if self._curves is None else _joined(self._curves, drawn)
        assert self._curves is not None
        rows = np.asarray([self._at[key] for key in keys.tolist()], dtype=np.int64)
        return self._curves, rows[inverse.ravel()]


def _shape_keys(configurations: Configurations) -> Ints:
    """One number for what the curves depend on; the rest of a configuration is its load."""
    key = configurations.gpu.astype(np.int64)
    for column, radix in (
        (configurations.runtime, len(RUNTIMES)),
        (configurations.quantization, len(QUANTIZATIONS)),
        (configurations.kv_dtype, len(KV_DTYPES)),
        (configurations.tp, 1 << 10),
        (configurations.pp, 1 << 10),
        (configurations.max_num_batched_tokens, 1 << 22),
    ):
        key = key * radix + np.minimum(column, radix - 1)
    return key


def _joined(first: Curves, second: Curves) -> Curves:
    return Curves(
        np.concatenate([first.values, second.values]),
        np.concatenate([first.novelty, second.novelty]),
        np.concatenate([first.outside, second.outside]),
    )


@dataclass(frozen=True)
class Predictor:
    """A trained version, and the curves that it has already drawn."""

    artifact: Artifact
    _drawn: OrderedDict[tuple[object, ...], _Shapes] = field(
        default_factory=OrderedDict, repr=False, compare=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def shipped(cls) -> "Predictor":
        """The version that comes with Foundry, loaded once."""
        return _shipped()

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Raises InvalidRequest: the folder holds no predictor."""
        return cls(load(directory))

    @property
    def version(self) -> str:
        return self.artifact.version

    def __reduce__(self) -> tuple[type["Predictor"], tuple[Artifact]]:
        return (type(self), (self.artifact,))

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
    ) -> Predictions:
        """Predictions of N configurations, row by row independent of each other.

        Args:
            groups: whose prices go before the catalogue's.
            confidence: of the intervals, 0.5 to 0.99.
            method: PRIOR leaves the regressors out.
        """
        tokens = workload.input.mean + workload.output.mean
        memory = memory_map(spec, catalogue, configurations, tokens)
        longest = sequence_bytes(spec, configurations, configurations.max_model_len)
        fits = (memory.slots >= 1) & (memory.free >= longest)
        drawn, rows = self._curves(spec, configurations, workload, catalogue, method)
        load = carried(drawn, rows, configurations, workload, memory.slots)
        widths = {
            name: _widths(self.artifact.targets[name], drawn.novelty[rows], confidence, method)
            for name in ("tpot", "ttft")
        }
        throughput = _throughput(load, workload, widths)
        hourly = _hourly(configurations, catalogue, groups)
        return Predictions(
            **_latencies(load, workload, widths),
            throughput_tps=throughput,
            cost_per_hour=hourly,
            cost_per_mtok=inverse(throughput, hourly / 3600.0 * 1e6),
            fits=fits,
            slots=memory.slots,
            utilization=load.utilization,
            novelty=drawn.novelty[rows],
            confidence=np.where(drawn.outside[rows], 0, _CONFIDENCE[drawn.novelty[rows]]),
        )

    def breakdown(
        self,
        spec: ModelSpec,
        configuration: Configuration,
        workload: Workload,
        *,
        catalogue: Catalogue,
        groups: ClusterSpec | None = None,
    ) -> Breakdown:
        """Terms of the calibrated prior of one configuration, at the load that it carries."""
        rows = Configurations.of([configuration])
        tokens = workload.input.mean + workload.output.mean
        slots = memory_map(spec, catalogue, rows, tokens).slots
        drawn, at = self._curves(spec, rows, workload, catalogue, "PRIOR")
        load = carried(drawn, at, rows, workload, slots)
        points = points_of(spec, rows, workload, catalogue)
        points.batch[:] = load.batch
        terms = prior(points)
        c = {
            name: target.ensemble.calibrations[
                "step" if name == "tpot" else "first_token"
            ].constants
            for name, target in self.artifact.targets.items()
        }
        step = step_parts(points, terms.mixed, c["tpot"])
        factor = float(step.pop("factor")[0]) * 1e3
        first, shift = token_parts(points, terms, c["ttft"])
        scale = float(shift[0]) * 1e3
        alone = terms.prefill
        own = float(first["prefill"][0]) * scale
        total = float(alone.compute[0] + alone.memory[0] + alone.comm[0])
        others = sum(float(value[0]) for name, value in first.items() if name != "prefill")
        return Breakdown(
            ttft_ms={
                "wait": float(load.wait[0]) * 1e3,
                "prefill_compute": own * float(alone.compute[0]) / total,
                "memory": own * float(alone.memory[0]) / total,
                "comm": own * float(alone.comm[0]) / total,
                "interference": others * scale,
            },
            tpot_ms={name: float(value[0]) * factor for name, value in step.items()},
        )

    def _curves(
        self,
        spec: ModelSpec,
        configurations: Configurations,
        workload: Workload,
        catalogue: Catalogue,
        method: Method,
    ) -> tuple[Curves, Ints]:
        """Curves of the deployment shapes among the configurations, and each one's row."""
        lengths = (workload.input.mean, workload.output.mean, workload.prefix_share)
        context = (spec, catalogue.digest(), lengths, method, configurations.gpus)
        with self._lock:
            shapes = self._drawn.setdefault(context, _Shapes())
            self._drawn.move_to_end(context)
            while len(self._drawn) > _CONTEXTS:
                self._drawn.popitem(last=False)
            return shapes.rows_of(
                configurations,
                lambda some: curves(
                    self.artifact, points_of(spec, some, workload, catalogue), method
                ),
            )


@cache
def _shipped() -> Predictor:
    return Predictor(load())


def predict(
    model: ModelSpec,
    hardware: Catalogue,
    config: Configuration,
    workload: Workload,
    *,
    confidence: float = 0.9,
    method: Method = "REGRESSOR",
) -> Prediction:
    """One configuration's prediction by the shipped predictor."""
    rows = Configurations.of([config])
    found = Predictor.shipped().predict(
        model, rows, workload, catalogue=hardware, confidence=confidence, method=method
    )
    return found.at(0)


def _widths(target: Target, novelty: Ints, confidence: float, method: Method) -> Floats:
    """Half the width in logs of each row's interval, (N,)."""
    quantiles = target.prior_quantiles if method == "PRIOR" else target.quantiles
    table = [half_width(quantiles[name], confidence) for name in NOVELTIES]
    return np.asarray(table)[novelty]


def _around(point: Floats, width: Floats, wait: Floats | float = 0.0) -> Estimates:
    """An interval in logs around a time, and a wait that is added to all of it; ms."""
    return Estimates(
        (point * np.exp(-width) + wait) * 1e3,
        (point + wait) * 1e3,
        (point * np.exp(width) + wait) * 1e3,
    )


def _latencies(
    load: Load, workload: Workload, widths: Mapping[str, Floats]
) -> dict[str, Estimates]:
    logs = load.logs
    median = np.exp(logs[:, _TTFT] - logs[:, _MEAN_OVER_P50])
    tail = median * np.exp(logs[:, _P95_OVER_P50])
    tpot = _around(np.exp(logs[:, _TPOT]), widths["tpot"])
    first = _around(tail, widths["ttft"], load.wait_p95)
    gaps = max(workload.output.p95 - 1.0, 0.0)
    return {
        "ttft_p50_ms": _around(median, widths["ttft"], load.wait_p50),
        "ttft_p95_ms": first,
        "tpot_ms": tpot,
        "latency_p95_ms": Estimates(
            first.low + gaps * tpot.low,
            first.point + gaps * tpot.point,
            first.high + gaps * tpot.high,
        ),
    }


def _throughput(load: Load, workload: Workload, widths: Mapping[str, Floats]) -> Estimates:
    """Output tokens/s: what the replicas can do, and no more than is asked of them."""
    first, rest = load.seconds(_TTFT), load.seconds(_TPOT) * max(workload.output.mean - 1.0, 0.0)
    slow = first * np.exp(widths["ttft"]) + rest * np.exp(widths["tpot"])
    fast = first * np.exp(-widths["ttft"]) + rest * np.exp(-widths["tpot"])
    service = first + rest
    # Closed: as many requests are in flight as there are users with a slot.
    done = load.carried if workload.users is not None else load.capacity * service
    ends = [done / seconds for seconds in (slow, service, fast)]
    if workload.rate is not None:
        ends = [np.minimum(end, workload.rate) for end in ends]
    low, point, high = (end * workload.output.mean for end in ends)
    return Estimates(low, point, high)


def _hourly(
    configurations: Configurations, catalogue: Catalogue, groups: ClusterSpec | None
) -> Floats:
    """$/h, (N,); NaN where no price is known."""
    own = {
        catalogue.gpu(group.gpu).id: group.price_per_gpu_hour
        for group in (groups.groups if groups else ())
        if group.price_per_gpu_hour is not None
    }
    gpus = [catalogue.gpu(name) for name in configurations.gpus]
    prices = [own.get(gpu.id, gpu.price_per_hour) for gpu in gpus]
    known = np.asarray([np.nan if price is None else price for price in prices])
    used = configurations.tp * configurations.pp * configurations.replicas
    hourly: Floats = known[configurations.gpu] * used
    return hourly
