"""What a benchmark's processor can do: its matrix rate, and the instructions that decide it."""

import time
from pathlib import Path

import torch

_SIZE = 2048
_REPEATS = 8
# What multiplies float32 or bfloat16, the fastest last.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def measure_matmul_rate(dtype: torch.dtype) -> float:
    """FLOP per second of a large product in this process, with the threads that it has.

    The best of several: a share of it is then never flattered by a busy moment.
    """
    left, right = (torch.randn(_SIZE, _SIZE).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        torch.matmul(left, right)
        best = min(best, time.perf_counter() - started)
    return 2 * _SIZE**3 / best


def list_cpu_flags() -> str:
    """Those of the instruction sets above that the processor has; empty where it cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    flags = next((line for line in lines if line.startswith("flags")), "").split()
    return " ".join(flag for flag in _FLAGS if flag in flags)


def read_peak_memory() -> int:
    """The most bytes that this program has had resident.

    Not `ru_maxrss`, which a program inherits from the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
