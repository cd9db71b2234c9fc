"""vLLM on CPUs as Foundry runs it: two plugins that vLLM loads in each of its processes."""

import time

from vllm.platforms import cpu_platform_plugin
from vllm.platforms.cpu import CpuPlatform

_POLL_S = 0.0005


class FoundryCpu(CpuPlatform):  # type: ignore[misc]
    """vLLM's CPU platform with our LoRA products."""

    @classmethod
    def get_punica_wrapper(cls) -> str:
        return "foundry.serving.engine.cpu_lora.GroupedLora"


def platform() -> str | None:
    """The class for a CPU build of vLLM; None leaves the choice to vLLM."""
    return f"{__name__}.{FoundryCpu.__name__}" if cpu_platform_plugin() else None


def wait_asleep() -> None:
    """Let engine and worker sleep while they wait for each other.

    Their shared queue is polled with `sched_yield`, which hides microseconds of a GPU's step. A
    CPU's step takes milliseconds, and the core that polls is one that the work could use.
    """
    if not cpu_platform_plugin():
        return
    # Not at the top: the module asks for the platform that this one is a part of.
    from vllm.distributed.device_communicators import shm_broadcast

    shm_broadcast.sched_yield = lambda: time.sleep(_POLL_S)
