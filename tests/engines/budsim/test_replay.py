"""The replay's step is the prior's step."""

import numpy as np
import pytest

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.physics import step
from foundry.engines.budsim.replay import RooflineStep
from tests.engines.budsim.serving_cases import points
from tests.fakes.models import LLAMA_8B, MIXTRAL


@pytest.mark.parametrize("spec", [LLAMA_8B, MIXTRAL], ids=["dense", "mixture"])
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (4, 1), (2, 2)])
@pytest.mark.parametrize(("prompts", "decodes"), [(0, 1), (0, 64), (1, 0), (1, 64)])
def test_a_step_of_the_replay_is_a_step_of_the_prior(
    spec: ModelSpec, tp: int, pp: int, prompts: int, decodes: int
) -> None:
    one, context = points(spec, tp=tp, pp=pp), 1152.0
    stage = step(
        one, np.full(1, prompts * 1024.0 / pp), np.full(1, decodes / pp), np.full(1, context)
    )
    replayed = RooflineStep.of(one).step_s(
        prompts * 1024.0, prompts * 1024.0**2 / 2, decodes, decodes * context
    )
    assert replayed == pytest.approx(float(stage.times(np.full(1, float(pp))).total[0]), rel=1e-9)


def test_the_scale_multiplies_the_whole_step() -> None:
    one, two = RooflineStep.of(points()), RooflineStep.of(points(), scale=1.8)
    assert two.step_s(0, 0, 8, 8000) == pytest.approx(1.8 * one.step_s(0, 0, 8, 8000))
    # The 15 GB of weights that are multiplied, over 3.35 TB/s.
    assert one.step_s(0, 0, 1, 0) == pytest.approx(2 * (8.03e9 - 0.525e9) / 3.35e12)
