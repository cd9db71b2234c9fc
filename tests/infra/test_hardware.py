from collections.abc import Mapping
from pathlib import Path

import pytest

from foundry.infra.hardware import DetectionReport, Strength, detect


def _machine(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _pci(slot: str, vendor: str, kind: str = "0x030200", device: str = "0x2335") -> dict[str, str]:
    folder = f"sys/bus/pci/devices/{slot}"
    return {f"{folder}/vendor": vendor, f"{folder}/class": kind, f"{folder}/device": device}


def _detect(root: Path, commands: tuple[str, ...] = ()) -> DetectionReport:
    return detect(
        root, lambda name: f"/usr/bin/{name}" if name in commands else None, lambda name: None
    )


_NVIDIA = {
    **_pci("0000:01:00.0", "0x10de"),
    "dev/nvidia0": "",
    "sys/module/nvidia/version": "580.95.05",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (_NVIDIA, "nvidia"),
        ({**_pci("0000:03:00.0", "0x1002"), "dev/kfd": "", "sys/module/amdgpu/x": ""}, "amd"),
        (
            {
                **_pci("0000:4d:00.0", "0x8086", "0x038000"),
                "dev/dri/renderD128": "",
                "sys/module/xe/version": "",
            },
            "intel",
        ),
        (
            {**_pci("0000:05:00.0", "0x17cb", "0x120000"), "dev/accel/accel0": ""},
            "qualcomm",
        ),
        ({}, "cpu"),
        # Graphics inside the processor and the host's network card are no accelerators.
        ({**_pci("0000:00:02.0", "0x8086", "0x030000"), "dev/dri/renderD128": ""}, "cpu"),
        ({**_pci("0000:06:00.0", "0x8086", "0x020000"), "dev/dri/renderD128": ""}, "cpu"),
    ],
)
def test_the_verdict(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    _machine(tmp_path, files)
    assert _detect(tmp_path).accelerator == expected


def test_evidence_is_listed_strongest_first(tmp_path: Path) -> None:
    _machine(tmp_path, _NVIDIA)
    report = _detect(tmp_path, ("nvidia-smi",))
    assert [(item.strength, item.detail) for item in report.evidence] == [
        (Strength.PCI, "PCI 0000:01:00.0, device 0x2335"),
        (Strength.NODE, "/dev/nvidia0"),
        (Strength.DRIVER, "nvidia 580.95.05"),
        (Strength.COMMAND, "/usr/bin/nvidia-smi"),
    ]
    assert report.contradictions == ()


def test_a_vendors_tool_on_another_vendors_machine_decides_nothing(tmp_path: Path) -> None:
    _machine(tmp_path, {**_pci("0000:03:00.0", "0x1002"), "dev/kfd": "", "sys/module/amdgpu/x": ""})
    report = _detect(tmp_path, ("nvidia-smi",))
    assert report.accelerator == "amd"
    assert report.contradictions == (
        "nvidia: its tools are installed but this machine has no such device; ignored",
    )


def test_a_device_without_a_node_is_a_contradiction_and_not_used(tmp_path: Path) -> None:
    _machine(tmp_path, _pci("0000:01:00.0", "0x10de"))
    report = _detect(tmp_path)
    assert report.accelerator == "cpu"
    assert "install the NVIDIA driver, or pass the device" in report.contradictions[0]


def test_two_vendors_are_a_contradiction(tmp_path: Path) -> None:
    _machine(tmp_path, {**_NVIDIA, **_pci("0000:03:00.0", "0x1002"), "dev/kfd": ""})
    report = _detect(tmp_path)
    assert report.accelerator in ("amd", "nvidia")
    assert any("devices of several vendors" in text for text in report.contradictions)


def test_processor_and_memory(tmp_path: Path) -> None:
    _machine(
        tmp_path,
        {
            "proc/cpuinfo": "model name\t: Test CPU\nflags\t: fpu avx2 amx_tile avx512f\n",
            "proc/meminfo": "MemTotal:       16384 kB\n",
        },
    )
    machine = _detect(tmp_path).machine
    assert machine.cpu_model == "Test CPU"
    assert machine.cpu_features == ("avx2", "avx512f", "amx_tile")
    assert machine.memory_bytes == 16384 * 1024
