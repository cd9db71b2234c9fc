import subprocess
import sys

import pytest
from pydantic import ValidationError

from foundry.engines.training.config import Full, Lora, SftConfig


def test_importing_the_config_loads_no_torch() -> None:
    program = "import sys, foundry.engines.training.config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_digest_ignores_reporting_only() -> None:
    config = SftConfig()
    assert config.digest() == SftConfig(log_every=9, checkpoint_every=7, eval_every=2).digest()
    assert config.digest() != SftConfig(seed=1).digest()
    assert config.digest() != SftConfig(method=Full()).digest()


def test_round_trip_keeps_the_method() -> None:
    config = SftConfig(method=Lora(rank=4, targets=("mlp",)))
    assert SftConfig.model_validate_json(config.model_dump_json()) == config
    assert Lora(targets=("mlp",)).modules == ("gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(
    "values",
    [
        {"lr": 0},
        {"batch_size": 2, "micro_batch_size": 4},
        {"method": {"kind": "lora", "rank": 0}},
        {"method": {"kind": "lora", "targets": []}},
        {"method": {"kind": "prefix"}},
        {"learning_rate": 1},
    ],
)
def test_out_of_range_values_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SftConfig.model_validate(values)
