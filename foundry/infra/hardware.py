"""What this machine is: evidence first, then a verdict.

Standard library only: the installer loads this file before anything is installed. Evidence,
strongest first: PCI ids, device nodes, driver, vendor library, vendor command. A command alone
never decides: vendor tools are found on machines without that vendor's device.
"""

import ctypes.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

CPU = "cpu"
_DISPLAY_CLASS, _ACCELERATOR_CLASS = "0x03", "0x12"
# The address of graphics inside an Intel processor: no training or serving happens there.
_INTEGRATED_SLOT = "0000:00:02.0"
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16")


class Strength(IntEnum):
    """How much a finding weighs; a lower number is stronger."""

    PCI = 1
    NODE = 2
    DRIVER = 3
    LIBRARY = 4
    COMMAND = 5


@dataclass(frozen=True, slots=True)
class Vendor:
    """Where a vendor's devices leave traces, relative to the root of the file system."""

    pci: str
    nodes: tuple[str, ...]
    drivers: tuple[str, ...]
    libraries: tuple[str, ...]
    commands: tuple[str, ...]
    driver_hint: str


VENDORS: Mapping[str, Vendor] = {
    "nvidia": Vendor(
        "0x10de", ("nvidia[0-9]*",), ("nvidia",), ("cuda",), ("nvidia-smi",), "the NVIDIA driver"
    ),
    "amd": Vendor(
        "0x1002", ("kfd",), ("amdgpu",), ("amdhip64",), ("amd-smi", "rocm-smi"), "amdgpu and ROCm"
    ),
    "intel": Vendor(
        "0x8086",
        ("dri/renderD*",),
        ("xe", "i915"),
        ("ze_loader",),
        ("xpu-smi",),
        "the xe driver and Level Zero",
    ),
    "qualcomm": Vendor(
        "0x17cb", ("accel/accel*",), ("qaic",), ("QAic",), ("qaic-util",), "the qaic driver"
    ),
}


@dataclass(frozen=True, slots=True)
class Evidence:
    vendor: str
    strength: Strength
    detail: str


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator on the PCI bus.

    Attributes:
        slot: PCI address.
        device: PCI device id, like 0x2335.
    """

    vendor: str
    slot: str
    device: str


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts of the host.

    Attributes:
        memory_bytes: installed.
        cores: this process may use.
    """

    system: str
    architecture: str
    python: str
    cores: int
    memory_bytes: int
    cpu_model: str
    cpu_features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DetectionReport:
    """The verdict with its reasons: `accelerator` is a vendor of `VENDORS`, or `cpu`."""

    accelerator: str
    machine: Machine
    devices: tuple[Device, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    contradictions: tuple[str, ...] = ()
    drivers: Mapping[str, str] = field(default_factory=dict)


def detect(
    root: Path = Path("/"),
    which: Callable[[str], str | None] = shutil.which,
    find_library: Callable[[str], str | None] = ctypes.util.find_library,
) -> DetectionReport:
    """Look at the machine whose file system is at `root`; nothing is executed."""
    devices = tuple(_devices(root))
    drivers = {name: version for name in VENDORS if (version := _driver(root, VENDORS[name]))}
    evidence = (
        *(
            Evidence(found.vendor, Strength.PCI, f"PCI {found.slot}, device {found.device}")
            for found in devices
        ),
        *_nodes(root, {found.vendor for found in devices}),
        *(Evidence(name, Strength.DRIVER, text) for name, text in drivers.items()),
        *_software(which, find_library),
    )
    accelerator, contradictions = _judge(evidence)
    return DetectionReport(
        accelerator, _machine(root), devices, evidence, tuple(contradictions), drivers
    )


def _devices(root: Path) -> Iterator[Device]:
    by_id = {vendor.pci: name for name, vendor in VENDORS.items()}
    for folder in sorted((root / "sys/bus/pci/devices").glob("*")):
        name = by_id.get(_read(folder / "vendor"))
        kind = _read(folder / "class")
        if name is None or not kind.startswith((_DISPLAY_CLASS, _ACCELERATOR_CLASS)):
            continue
        if name == "intel" and folder.name == _INTEGRATED_SLOT:
            continue
        yield Device(name, folder.name, _read(folder / "device"))


def _nodes(root: Path, on_bus: set[str]) -> Iterator[Evidence]:
    for name, vendor in VENDORS.items():
        found = [path for pattern in vendor.nodes for path in sorted((root / "dev").glob(pattern))]
        # /dev/dri and /dev/accel are shared by vendors: they support a PCI finding, never make one.
        shared = any("/" in pattern for pattern in vendor.nodes)
        if found and (not shared or name in on_bus):
            names = ", ".join(f"/{path.relative_to(root)}" for path in found)
            yield Evidence(name, Strength.NODE, names)


def _driver(root: Path, vendor: Vendor) -> str:
    for module in vendor.drivers:
        folder = root / "sys/module" / module
        if folder.is_dir():
            version = _read(folder / "version")
            return f"{module} {version}" if version else f"{module} (part of the kernel)"
    return ""


def _software(
    which: Callable[[str], str | None], find_library: Callable[[str], str | None]
) -> Iterator[Evidence]:
    for name, vendor in VENDORS.items():
        for library in filter(find_library, vendor.libraries):
            yield Evidence(name, Strength.LIBRARY, f"library {library}")
        for command in vendor.commands:
            if path := which(command):
                yield Evidence(name, Strength.COMMAND, path)


def _judge(evidence: tuple[Evidence, ...]) -> tuple[str, list[str]]:
    """A vendor is usable with nodes and, besides, a PCI device or a driver."""
    found = {name: {item.strength for item in evidence if item.vendor == name} for name in VENDORS}
    contradictions = [text for name in VENDORS for text in _contradictions(name, found[name])]
    usable = [
        (min(strengths), name)
        for name, strengths in found.items()
        if Strength.NODE in strengths and strengths & {Strength.PCI, Strength.DRIVER}
    ]
    on_bus = [name for strength, name in usable if strength is Strength.PCI]
    if len(on_bus) > 1:
        contradictions.append(
            f"devices of several vendors: {', '.join(on_bus)}; one environment serves one vendor, "
            f"so {on_bus[0]} is used"
        )
    return (min(usable)[1] if usable else CPU), contradictions


def _contradictions(name: str, found: set[Strength]) -> Iterator[str]:
    hint = VENDORS[name].driver_hint
    if Strength.PCI in found and Strength.NODE not in found:
        yield (
            f"{name}: a device is on the PCI bus but has no device node: install {hint}, "
            "or pass the device into this container"
        )
    elif Strength.PCI in found and Strength.DRIVER not in found:
        yield f"{name}: device nodes are there but the driver is not loaded: install {hint}"
    elif Strength.PCI not in found and Strength.NODE in found:
        yield f"{name}: device nodes are there but no such device is on the PCI bus"
    elif found and found <= {Strength.LIBRARY, Strength.COMMAND}:
        yield f"{name}: its tools are installed but this machine has no such device; ignored"


def _machine(root: Path) -> Machine:
    text = _read(root / "proc/cpuinfo")
    lines = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in text.splitlines())
    }
    flags = set(lines.get("flags", lines.get("Features", "")).split())
    memory = next(
        (
            int(line.split()[1]) * 1024
            for line in _read(root / "proc/meminfo").splitlines()
            if line.startswith("MemTotal")
        ),
        0,
    )
    return Machine(
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        python=platform.python_version(),
        cores=_cores(),
        memory_bytes=memory,
        cpu_model=lines.get("model name", platform.processor() or "unknown"),
        cpu_features=tuple(flag for flag in _CPU_FLAGS if flag in flags),
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
