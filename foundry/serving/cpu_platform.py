"""vLLM's CPU platform with our LoRA products; a `vllm.platform_plugins` entry point."""

from vllm.platforms import cpu_platform_plugin
from vllm.platforms.cpu import CpuPlatform


class FoundryCpu(CpuPlatform):  # type: ignore[misc]
    @classmethod
    def get_punica_wrapper(cls) -> str:
        return "foundry.serving.cpu_lora.GroupedLora"


def platform() -> str | None:
    """The class for a CPU build of vLLM; None leaves the choice to vLLM."""
    return f"{__name__}.{FoundryCpu.__name__}" if cpu_platform_plugin() else None
