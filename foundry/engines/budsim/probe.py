"""What a machine attains, measured in a moment; the catalogue's peaks are only the ceiling."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from foundry.engines.budsim.catalogue import Catalogue, Gpu, finite_number

# Both larger than any cache, and small enough for a machine with 1 GB.
_MATRIX_ROWS, _MATRIX_COLUMNS = 8192, 4096
_GEMM_SIZE = 1024
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def probe_cpu(seconds: float = 2.0) -> Gpu:
    """This machine as the catalogue's `cpu` entry.

    Bandwidth is that of a matrix-vector product, which is what decoding does to the weights.
    Operations are those of an fp32 matrix product: numpy knows no bf16, so units for it (AMX,
    AVX-512 BF16) are not credited.

    Args:
        seconds: of measuring, half for each; at least one run each.
    """
    # Written, because a page of zeros that nothing has touched is no memory at all.
    matrix = np.full((_MATRIX_ROWS, _MATRIX_COLUMNS), 0.5, dtype=np.float32)
    vector = np.full(_MATRIX_COLUMNS, 0.5, dtype=np.float32)
    square = np.ascontiguousarray(matrix[:_GEMM_SIZE, :_GEMM_SIZE])
    pass_s = _fastest(lambda: matrix @ vector, seconds / 2)
    gemm_s = _fastest(lambda: square @ square, seconds / 2)
    tflops = 2 * _GEMM_SIZE**3 / gemm_s / 1e12
    return replace(
        Catalogue.shipped().gpu("cpu"),
        name="CPU node",
        memory_gb=memory_bytes() / 1e9,
        bandwidth_gbps=matrix.nbytes / pass_s / 1e9,
        bf16_tflops=tflops,
        fp16_tflops=tflops,
        int8_tops=tflops,
        source="measured on this machine",
        verified=True,
    )


def memory_bytes() -> int:
    """Main memory that this process may use: the machine's, or its control group's if less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP_LIMIT.read_text().strip() if _CGROUP_LIMIT.is_file() else "max"
    return min(physical, int(limit)) if limit.isdigit() else physical


def attained(gpu: Gpu, bandwidth_gbps: float, tflops: float) -> Gpu:
    """The accelerator with the shares of its peaks that a probe measured.

    Args:
        bandwidth_gbps: of a copy, 10⁹ bytes/s read and written.
        tflops: of a bf16 matrix product, fp16 where the hardware has no bf16. Above the peak
            counts as the peak: boost clocks exceed datasheets.
    Raises:
        InvalidRequest: a measurement is not a positive number.
    """
    bandwidth = finite_number(bandwidth_gbps, "measured bandwidth", low=0.0, exclusive=True)
    operations = finite_number(tflops, "measured tflops", low=0.0, exclusive=True)
    peak = gpu.bf16_tflops or gpu.fp16_tflops
    return replace(
        gpu,
        attained_bandwidth=min(1.0, bandwidth / gpu.bandwidth_gbps),
        attained_flops=min(1.0, operations / peak),
    )


def _fastest(run: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of as many runs as fit: others only add noise."""
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best
