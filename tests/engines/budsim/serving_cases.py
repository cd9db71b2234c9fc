"""Operating points and configurations that the tests of the predictor share."""

from dataclasses import fields, replace
from typing import Any

import numpy as np

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configuration, Configurations
from foundry.engines.budsim.points import Points, model_columns
from foundry.engines.budsim.prediction import Estimates, Prediction, Predictions
from foundry.engines.budsim.predictor import Predictor
from foundry.engines.budsim.request import Lengths, Workload
from tests.fakes.models import DEEPSEEK, GPT_OSS, LLAMA_8B, LLAMA_70B, MIXTRAL

CATALOGUE = Catalogue.shipped()
SHIPPED = Predictor.shipped()

MODELS = (LLAMA_8B, LLAMA_70B, MIXTRAL, DEEPSEEK, GPT_OSS)

H100 = {
    "memory": 80e9,
    "bandwidth": 3350e9,
    "flops": 989e12,
    "flops16": 989e12,
    "link": 450e9,
    "nvlink": 1.0,
    "native": 1.0,
}
_PLAIN = {
    "tp": 1.0, "pp": 1.0, "dp": 1.0, "ep": 1.0, "wb": 2.0, "kb": 2.0, "batch": 8.0,
    "input": 1024.0, "cached": 0.0, "output": 512.0, "chunk": 8192.0, "engine": 0.0, "month": 39.0,
}  # fmt: skip


def points(spec: ModelSpec = LLAMA_8B, **columns: Any) -> Points:
    """Operating points on H100s; columns are numbers or sequences of one length."""
    count = max((np.size(value) for value in columns.values()), default=1)
    values = {**H100, **_PLAIN, **columns}
    return Points(
        **{
            **model_columns(spec, count),
            **{name: np.full(count, value, dtype=np.float64) for name, value in values.items()},
        }
    )


def random_points(count: int, seed: int = 0) -> Points:
    """Operating points of many kinds: models, accelerators, engines and loads."""
    rng = np.random.default_rng(seed)
    loads: dict[str, Any] = {
        "tp": 2.0 ** rng.integers(0, 4, count),
        "wb": rng.choice([0.56, 1.0, 2.0], count),
        "batch": 2.0 ** rng.uniform(0, 9, count),
        "input": 2.0 ** rng.uniform(7, 14, count),
        "output": 2.0 ** rng.uniform(5, 13, count),
        "engine": rng.integers(0, 4, count).astype(np.float64),
        "month": rng.uniform(30, 40, count),
        "bandwidth": rng.uniform(0.3e12, 8e12, count),
        "flops": rng.uniform(60e12, 4000e12, count),
        "memory": rng.uniform(16e9, 280e9, count),
        "dp": 2.0 ** rng.integers(0, 2, count),
    }
    models = [model_columns(MODELS[index], 1) for index in rng.integers(0, len(MODELS), count)]
    columns = {name: np.concatenate([one[name] for one in models]) for name in models[0]}
    return replace(points(**loads), **columns)


def rows(gpu: str = "nvidia-h100-80gb", count: int = 1, **settings: Any) -> Configurations:
    """Equal configurations, settings as of `Configuration`."""
    return Configurations.of([Configuration(gpu, **settings)] * count)


def closed(users: float, input: float = 1024, output: float = 1024, share: float = 0.0) -> Workload:
    return Workload(Lengths.of(input), Lengths.of(output), users=users, prefix_share=share)


def arriving(rate: float, input: float = 1024, output: float = 256) -> Workload:
    return Workload(Lengths.of(input), Lengths.of(output), rate=rate)


def ask(
    spec: ModelSpec,
    shape: Configuration | Configurations,
    workload: Workload,
    predictor: Predictor = SHIPPED,
    **options: Any,
) -> Predictions:
    some = Configurations.of([shape]) if isinstance(shape, Configuration) else shape
    return predictor.predict(spec, some, workload, **{"catalogue": CATALOGUE, **options})


def ask_one(
    spec: ModelSpec, shape: Configuration, workload: Workload, **options: Any
) -> Prediction:
    return ask(spec, shape, workload, **options).at(0)


def assert_same(one: Predictions, at: int, other: Predictions, index: int) -> None:
    for item in fields(Predictions):
        left, right = getattr(one, item.name), getattr(other, item.name)
        if isinstance(left, Estimates):
            pairs = [(getattr(left, end), getattr(right, end)) for end in ("low", "point", "high")]
        else:
            pairs = [(left, right)]
        for a, b in pairs:
            assert np.array_equal(a[at], b[index], equal_nan=a.dtype.kind == "f"), item.name
