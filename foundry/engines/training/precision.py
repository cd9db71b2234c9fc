"""Number formats by vendor and device: what each computes at full rate, and what training takes.

Weights that are trained, their gradients' sums and the optimiser stay float32 whatever the format;
it is that of the base's weights and of the activations. float16 has five bits of exponent against
bfloat16's eight, so its losses are scaled (arXiv:1710.03740). Imports no torch: the control plane
reads the rules as well.

Sources: NVIDIA's CUDA C++ programming guide, "Compute capabilities"; AMD's ROCm documentation,
"Data types and precision support"; Intel's XMX engines of Xe-HPC and Xe2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "bfloat16", "float16"]
Asked = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class Traits:
    """What tells one device's generation from another's.

    Attributes:
        vendor: `cpu` or a vendor of foundry/infra/hardware.py.
        capability: NVIDIA's compute capability.
        features: AMD's architecture, such as gfx942; a processor's extensions.
    """

    vendor: str
    capability: tuple[int, int] = (0, 0)
    features: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PrecisionRule:
    """Formats of one generation of devices.

    Attributes:
        generation: its name, for people.
        formats: what it computes at no less than float32's rate; training takes the first.
        fp8: matrix units for 8-bit floats; serving's quantised weights use them.
        capability: it begins with.
        features: any of them, by its beginning, is enough; none: no condition.
        devices: the ids of budsim's catalogue.
    """

    vendor: str
    generation: str
    formats: tuple[Precision, ...]
    fp8: bool = False
    capability: tuple[int, int] = (0, 0)
    features: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()

    def covers(self, traits: Traits) -> bool:
        """Whether a device is of this generation, or of a later one that no rule before names."""
        return (
            self.vendor == traits.vendor
            and traits.capability >= self.capability
            and (
                not self.features
                or any(feature.startswith(self.features) for feature in traits.features)
            )
        )


_WIDE_FIRST: tuple[Precision, ...] = ("bfloat16", "float16", "float32")
CPU_FORMATS: tuple[Precision, ...] = ("float32", "bfloat16")
_NO_BFLOAT16: tuple[Precision, ...] = ("float16", "float32")

# The first rule that covers a device holds.
RULES = (
    PrecisionRule(
        "nvidia",
        "Ada, Hopper, Blackwell",
        _WIDE_FIRST,
        fp8=True,
        capability=(8, 9),
        devices=(
            "nvidia-h100-80gb",
            "nvidia-h100-pcie-80gb",
            "nvidia-h200-141gb",
            "nvidia-gh200-96gb",
            "nvidia-b200-180gb",
            "nvidia-b300-270gb",
            "nvidia-gb200-186gb",
            "nvidia-gb300-279gb",
            "nvidia-l40s-48gb",
            "nvidia-l4-24gb",
            "nvidia-rtx4090-24gb",
        ),
    ),
    PrecisionRule(
        "nvidia",
        "Ampere",
        _WIDE_FIRST,
        capability=(8, 0),
        devices=(
            "nvidia-a100-80gb",
            "nvidia-a100-pcie-80gb",
            "nvidia-a100-40gb",
            "nvidia-rtx3090-24gb",
            "nvidia-a10g-24gb",
            "nvidia-a10-24gb",
        ),
    ),
    PrecisionRule(
        "nvidia",
        "Volta, Turing",
        _NO_BFLOAT16,
        capability=(7, 0),
        devices=("nvidia-v100-32gb", "nvidia-v100-16gb", "nvidia-t4-16gb"),
    ),
    # Pascal and older compute float16 at a fraction of float32's rate, but for P100.
    PrecisionRule("nvidia", "Pascal and older", ("float32",)),
    PrecisionRule(
        "amd",
        "CDNA 3 and 4, RDNA 4",
        _WIDE_FIRST,
        fp8=True,
        features=("gfx94", "gfx95", "gfx12"),
        devices=("amd-mi300x-192gb",),
    ),
    PrecisionRule(
        "amd",
        "CDNA 1 and 2, RDNA 3",
        _WIDE_FIRST,
        features=("gfx908", "gfx90a", "gfx11"),
        devices=("amd-mi250-die-64gb",),
    ),
    PrecisionRule("amd", "Vega, RDNA 1 and 2", _NO_BFLOAT16),
    PrecisionRule(
        "intel",
        "Max, Arc",
        _WIDE_FIRST,
        devices=("intel-max1550-128gb", "intel-max1550-tile-64gb", "intel-b60-24gb"),
    ),
    # float32 comes first, for bfloat16's gain in a whole step is small: it is to be asked for.
    # A product of 2,048 by 2,048 on one core of a Zen 4: 61 GFLOP/s in float32, 137 in bfloat16,
    # 0.3 in float16, which has no instructions there. With AMX bfloat16 is six times as fast.
    PrecisionRule(
        "cpu",
        "with AMX or AVX-512 BF16",
        CPU_FORMATS,
        features=("amx_bf16", "avx512_bf16", "bf16"),
    ),
    PrecisionRule("cpu", "without", ("float32",), devices=("cpu",)),
)


def find_rule(traits: Traits) -> PrecisionRule:
    """The rule of a device; an unknown vendor's devices compute in float32."""
    unknown = PrecisionRule(traits.vendor, "unknown", ("float32",))
    return next((rule for rule in RULES if rule.covers(traits)), unknown)


def choose_precision(asked: Asked, traits: Traits) -> Precision:
    """The format that a run computes in: what was asked for, or the device's first."""
    return find_rule(traits).formats[0] if asked == "auto" else asked


def find_common_formats(devices: Iterable[str]) -> tuple[Precision, ...] | None:
    """What any of some devices of the catalogue computes in; None: one of them is not known.

    A job goes to any device of a cluster that has what it asks for, so one is enough.
    """
    by_device = {device: rule.formats for rule in RULES for device in rule.devices}
    found = [by_device.get(device) for device in devices]
    if None in found:
        return None
    return tuple(dict.fromkeys(precision for formats in found for precision in formats or ()))
