import subprocess
import sys

import pytest
from pydantic import ValidationError

from foundry.engines.training.config import TARGET_MODULES, Full, Lora, SftConfig


def test_importing_the_config_loads_no_torch() -> None:
    program = "import sys, foundry.engines.training.config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_digest_ignores_reporting_only() -> None:
    config = SftConfig()
    assert config.digest() == SftConfig(log_every=9, checkpoint_every=7, eval_every=2).digest()
    assert config.digest() != SftConfig(seed=1).digest()
    assert config.digest() != SftConfig(method=Full()).digest()


def test_either_epochs_or_steps_say_how_long() -> None:
    assert SftConfig().num_epochs == 3
    both = SftConfig(epochs=2, max_steps=9)
    assert [found.path for found in both.find_ignored()] == [("epochs",)]
    for config in (SftConfig(), SftConfig(epochs=2), SftConfig(max_steps=9)):
        written = SftConfig.model_validate_json(config.model_dump_json())
        assert list(written.find_ignored(explicit=True)) == []


def test_epochs_that_are_the_default_anyway_are_the_same_training() -> None:
    assert SftConfig().digest() == SftConfig(epochs=3).digest() != SftConfig(epochs=2).digest()
    # As of 0.1.0: a job that was trained then is the same job today.
    assert SftConfig(precision="float32").digest() == (
        "b270aa0537bef9160dbc6609270c004241297f5d1c7fc787fee5bbc900946251"
    )


@pytest.mark.parametrize(
    ("values", "size"),
    [({}, 8), ({"batch_size": 64}, 8), ({"batch_size": 3}, 3), ({"micro_batch_size": 2}, 2)],
)
def test_a_micro_batch_that_is_not_set_fits_the_batch(values: dict[str, int], size: int) -> None:
    assert SftConfig.model_validate(values).micro_batch_size == size


def test_round_trip_keeps_the_method() -> None:
    config = SftConfig(method=Lora(rank=4, targets=("mlp",)))
    assert SftConfig.model_validate_json(config.model_dump_json()) == config
    assert Lora(targets=("mlp",)).modules == TARGET_MODULES["mlp"]


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
