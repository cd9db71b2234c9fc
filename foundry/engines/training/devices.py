"""The device that a process trains on: which one, what it computes, and how its memory is freed."""

import gc

import torch

from foundry.engines.training.precision import Asked, Traits, choose_precision

# What each backend of torch is called by the vendors' rules; AMD's build answers as CUDA's.
_ACCELERATORS = ("cuda", "xpu")


def default_device() -> str:
    """The accelerator that torch's build finds, or `cpu`."""
    found = (name for name in _ACCELERATORS if getattr(torch, name).is_available())
    return next(found, "cpu")


def is_host(device: torch.device) -> bool:
    """Whether the device's memory is the host's."""
    return device.type == "cpu"


def read_traits(device: torch.device) -> Traits:
    """What the rules of `precision.py` tell devices apart by."""
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return Traits("cpu", features=frozenset(name for name, has in found.items() if has is True))
    if device.type == "xpu":
        return Traits("intel")
    if torch.version.hip is not None:
        architecture = torch.cuda.get_device_properties(device).gcnArchName
        return Traits("amd", features=frozenset({architecture.partition(":")[0]}))
    return Traits("nvidia", capability=torch.cuda.get_device_capability(device))


def describe_device(asked: Asked) -> str:
    """What a run that asks for a precision will compute in, and on what, in words for people."""
    device = torch.device(default_device())
    precision = choose_precision(asked, read_traits(device))
    on_cpu = device.type == "cpu"
    name = "the processor" if on_cpu else getattr(torch, device.type).get_device_name()
    return f"{precision} on {name}"


def demand_exact_sums() -> None:
    """Have matrix products of half precision summed in float32 to the end, in this process.

    Where a GPU splits a sum among its units, torch lets it round each part to the products' type
    unless told otherwise. An adapter's update would be lost there that one rounding keeps.
    """
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def release_memory() -> None:
    """Give what no tensor uses back to the driver; the context itself lives as long as the process.

    Whoever calls has dropped its references before.
    """
    gc.collect()
    # Both do nothing where torch has no such device, or has not begun to use it.
    torch.cuda.empty_cache()
    torch.xpu.empty_cache()
    if torch.cuda._initialized:
        # Memory that another process had mapped and has closed since.
        torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
