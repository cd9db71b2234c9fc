import math
import os

import numpy as np
import pytest

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.probe import attained, memory_bytes, probe_cpu
from foundry.errors import InvalidRequest

H100 = Catalogue.shipped().gpu("h100")


def test_attained_shares() -> None:
    gpu = attained(H100, bandwidth_gbps=2680.0, tflops=741.75)
    assert gpu.attained_bandwidth == pytest.approx(0.8)
    assert gpu.attained_flops == pytest.approx(0.75)
    assert gpu.bandwidth_gbps == 3350


def test_a_card_without_bf16_is_judged_by_fp16() -> None:
    gpu = attained(Catalogue.shipped().gpu("t4"), bandwidth_gbps=240.0, tflops=32.5)
    assert gpu.attained_flops == pytest.approx(0.5)


def test_beyond_the_datasheet_is_the_peak() -> None:
    gpu = attained(H100, bandwidth_gbps=4000.0, tflops=1200.0)
    assert (gpu.attained_bandwidth, gpu.attained_flops) == (1.0, 1.0)


@pytest.mark.parametrize("measured", [0.0, -1.0, math.nan, math.inf])
def test_absurd_measurements_are_refused(measured: float) -> None:
    with pytest.raises(InvalidRequest, match="measured bandwidth"):
        attained(H100, measured, 500.0)


def test_memory_is_within_the_machine() -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**28 < memory_bytes() <= physical


def test_probe_of_this_machine() -> None:
    gpu = probe_cpu(seconds=0.2)
    assert gpu.id == "cpu"
    # From a slow, shared core to a large server.
    assert 0.5 < gpu.bandwidth_gbps < 5000
    assert 0.001 < gpu.bf16_tflops < 500
    assert gpu.memory_gb == pytest.approx(memory_bytes() / 1e9)
    assert np.isfinite(gpu.int8_tops)
    assert Catalogue.shipped().with_gpu(gpu).gpu("cpu").verified
