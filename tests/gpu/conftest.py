"""The accelerator that these tests run on; `FOUNDRY_TEST_DEVICE=cpu` rehearses them without one.

The whole suite's fixtures need services and packages that a bare machine with a card has not, so
`docs/hardware.md` runs this folder without them.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from foundry.engines.training.devices import default_device, demand_exact_sums, release_memory
from tests.gpu.streams import write_model


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs an accelerator")


@pytest.fixture(scope="session")
def device() -> torch.device:
    asked = os.environ.get("FOUNDRY_TEST_DEVICE")
    name = asked or default_device()
    if name == "cpu" and asked is None:
        pytest.skip("no accelerator here; FOUNDRY_TEST_DEVICE=cpu rehearses")
    # TF32 keeps ten bits of a product's factors: float32 is to be float32.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    demand_exact_sums()
    return torch.device(name)


@pytest.fixture
def accelerator(device: torch.device) -> torch.device:
    """For what a processor cannot show."""
    if device.type == "cpu":
        pytest.skip("a rehearsal has no device memory")
    return device


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True, scope="module")
def _released() -> Iterator[None]:
    """No module sees the memory of the one before."""
    yield
    release_memory()
