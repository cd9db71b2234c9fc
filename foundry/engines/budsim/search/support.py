"""Which engine runs which weights on which accelerator.

Unverified: written from general knowledge of the engines, not checked against a release. Engines
move, so a wrong entry is corrected here and nowhere else.
"""

from dataclasses import dataclass

from foundry.engines.budsim.architecture import ModelSpec, WeightFormat
from foundry.engines.budsim.catalogue import Gpu
from foundry.engines.budsim.request import KvDtype, Quantization, Runtime

_FLOAT: frozenset[WeightFormat] = frozenset({"fp32", "bf16", "fp16"})
_ALL: frozenset[WeightFormat] = _FLOAT | {"fp8", "int8", "int4", "fp4"}


@dataclass(frozen=True, slots=True)
class Support:
    """What an engine does on one vendor's accelerators.

    Attributes:
        formats: of the weights.
        latent: runs multi-head latent attention.
        recurrent: runs layers with a recurrent state.
        needs_bf16: leaves out accelerators that have no bfloat16 (Volta, Turing).
    """

    formats: frozenset[WeightFormat]
    latent: bool = True
    recurrent: bool = True
    needs_bf16: bool = False


SUPPORT: dict[tuple[Runtime, str], Support] = {
    ("vllm", "nvidia"): Support(_ALL),
    ("vllm", "amd"): Support(_FLOAT | {"fp8", "int8", "int4"}),
    ("vllm", "intel"): Support(_FLOAT | {"fp8", "int4"}, recurrent=False),
    ("vllm", "cpu"): Support(_FLOAT | {"int8", "int4"}),
    ("vllm", "qualcomm"): Support(_FLOAT | {"int8"}, latent=False, recurrent=False),
    ("sglang", "nvidia"): Support(_ALL, needs_bf16=True),
    ("sglang", "amd"): Support(_FLOAT | {"fp8", "int8", "int4"}),
    ("sglang", "cpu"): Support(_FLOAT | {"int8"}, recurrent=False),
    ("tensorrt-llm", "nvidia"): Support(_ALL, recurrent=False, needs_bf16=True),
}


def weight_format(spec: ModelSpec, quantization: Quantization) -> WeightFormat:
    """Format of the weights in memory."""
    return spec.weight_format if quantization == "none" else quantization


def weights_problem(
    spec: ModelSpec, gpu: Gpu, runtime: Runtime, quantization: Quantization
) -> tuple[str, str] | None:
    """Why the engine cannot run these weights there: (field, reason); None: it can.

    bfloat16 checkpoints run as float16 where the accelerator has no bfloat16. 4-bit weights run
    everywhere as weight-only formats: bytes shrink, arithmetic stays in 16 bits.
    """
    support = SUPPORT.get((runtime, gpu.vendor))
    if support is None:
        return "runtime", f"{runtime} does not run on {gpu.vendor} accelerators; choose another"
    if support.needs_bf16 and not gpu.bf16_tflops:
        return "runtime", f"{runtime} needs bfloat16, which {gpu.name} has not; choose vllm"
    if spec.latent and not support.latent:
        return "runtime", f"{runtime} runs no latent attention on {gpu.vendor}; choose another"
    if spec.state_bytes and not support.recurrent:
        return "runtime", f"{runtime} runs no recurrent layers on {gpu.vendor}; choose another"
    weights = weight_format(spec, quantization)
    if spec.weight_format not in _FLOAT and weights != spec.weight_format:
        return "quantization", f"the checkpoint is {spec.weight_format} already; use none"
    if weights not in support.formats:
        return "quantization", f"{runtime} reads no {weights} weights on {gpu.vendor}"
    if weights == "fp8" and not gpu.fp8_tflops:
        return "quantization", f"{gpu.name} has no fp8 units; use none, int8 or int4"
    return None


def kv_problem(gpu: Gpu, kv_dtype: KvDtype) -> str | None:
    """Why the KV cache cannot have this type there; None: it can."""
    if kv_dtype == "fp8" and not gpu.fp8_tflops:
        return f"{gpu.name} has no fp8 units; use auto"
    return None
