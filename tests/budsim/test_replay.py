"""The replay's step is the prior's step."""

from dataclasses import fields

import numpy as np
import pytest

from foundry.budsim.architecture import ModelSpec
from foundry.budsim.physics import step
from foundry.budsim.points import Points, model_columns
from foundry.budsim.replay import RooflineStep

DENSE = ModelSpec(
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    kv_width=2048,
    ffn=14336,
    vocabulary=128256,
    parameters=8.03e9,
    active_parameters=8.03e9,
    full_layers=32,
)
MIXTURE = ModelSpec(
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    kv_width=2048,
    ffn=14336,
    vocabulary=32000,
    parameters=46.7e9,
    active_parameters=12.9e9,
    full_layers=32,
    expert_parameters=45.1e9,
    experts=8,
    experts_per_token=2,
)


def _points(spec: ModelSpec, tp: int, pp: int) -> Points:
    values = {
        "memory": 80e9,
        "bandwidth": 3.35e12,
        "flops": 989e12,
        "flops16": 989e12,
        "link": 450e9,
        "nvlink": 1,
        "native": 1,
        "tp": tp,
        "pp": pp,
        "dp": 1,
        "ep": 1,
        "wb": 2,
        "kb": 2,
        "batch": 16,
        "input": 1024,
        "output": 256,
        "cached": 0,
        "chunk": 8192,
        "engine": 0,
        "month": 30,
    }
    columns = {name: np.full(1, float(value)) for name, value in values.items()}
    columns |= model_columns(spec, 1)
    return Points(**{item.name: columns[item.name] for item in fields(Points)})


@pytest.mark.parametrize("spec", [DENSE, MIXTURE], ids=["dense", "mixture"])
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (4, 1), (2, 2)])
@pytest.mark.parametrize(("prompts", "decodes"), [(0, 1), (0, 64), (1, 0), (1, 64)])
def test_a_step_of_the_replay_is_a_step_of_the_prior(
    spec: ModelSpec, tp: int, pp: int, prompts: int, decodes: int
) -> None:
    points, context = _points(spec, tp, pp), 1152.0
    stage = step(
        points, np.full(1, prompts * 1024.0 / pp), np.full(1, decodes / pp), np.full(1, context)
    )
    replayed = RooflineStep.of(points).step_s(
        prompts * 1024.0, prompts * 1024.0**2 / 2, decodes, decodes * context
    )
    assert replayed == pytest.approx(float(stage.times(np.full(1, float(pp))).total[0]), rel=1e-9)


def test_the_scale_multiplies_the_whole_step() -> None:
    points = _points(DENSE, 1, 1)
    one, two = RooflineStep.of(points), RooflineStep.of(points, scale=1.8)
    assert two.step_s(0, 0, 8, 8000) == pytest.approx(1.8 * one.step_s(0, 0, 8, 8000))
    # 16 GB of weights over 3.35 TB/s.
    assert one.step_s(0, 0, 1, 0) == pytest.approx(2 * 8.03e9 / 3.35e12)
