"""Numbers and formats that vLLM takes, so that no engine starts only to refuse its arguments."""

from collections.abc import Sequence

from foundry.catalog.registry.architectures import is_served
from foundry.config import ServingSettings
from foundry.serving.engine.hardware import Hardware
from foundry.serving.engine.options import EngineOptions

# vLLM compiles its kernels for these; an adapter of any rank up to the engine's is served.
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def next_lora_rank(rank: int) -> int | None:
    """The least `max_lora_rank` that serves an adapter of this rank; None: no engine does."""
    return next((each for each in LORA_RANKS if each >= rank), None)


def find_limit_faults(serving: ServingSettings, options: EngineOptions) -> list[str]:
    """Why vLLM would refuse its arguments, whatever it runs on.

    Args:
        serving: with what the configuration says of it.
    """
    found = []
    if serving.max_lora_rank not in LORA_RANKS:
        found.append(
            f"max_lora_rank {serving.max_lora_rank} is none that an engine has: "
            f"configure one of {', '.join(map(str, LORA_RANKS))}"
        )
    if serving.max_loras > serving.max_cpu_loras:
        found.append(
            f"max_loras {serving.max_loras} is more than the {serving.max_cpu_loras} adapters that "
            "an engine keeps: configure fewer, or raise FOUNDRY_SERVING__MAX_CPU_LORAS"
        )
    batched = options.max_num_batched_tokens
    if batched is not None and batched < serving.max_num_seqs:
        found.append(
            f"max_num_batched_tokens {batched} is less than max_num_seqs {serving.max_num_seqs}: "
            "each sequence of a step needs one, so configure more tokens or fewer sequences"
        )
    return found


def find_architecture_faults(architectures: Sequence[str]) -> list[str]:
    """Why the engine does not know the model.

    Args:
        architectures: of the model; empty: unknown.
    """
    if not architectures or any(map(is_served, architectures)):
        return []
    return [
        f"the engine does not know the architecture {', '.join(architectures)[:160]}, or it "
        "generates no text: serve a model of another one"
    ]


def find_missing_dtype(
    serving: ServingSettings, options: EngineOptions, hardware: Hardware
) -> list[str]:
    """What this cluster's accelerators lack to compute in the dtype that is named."""
    kinds = [options.gpu_type] if options.gpu_type else sorted(hardware.accelerators)
    if serving.dtype != "bfloat16" or not hardware.lacks_bfloat16(kinds):
        return []
    return [f"{', '.join(kinds)} has no bfloat16: configure dtype auto, float16 or float32"]
