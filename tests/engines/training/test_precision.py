"""Which number format each device trains in, and that the catalogue knows the same devices."""

from itertools import chain

import pytest
import torch

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.training import devices
from foundry.engines.training.precision import (
    RULES,
    Traits,
    choose_precision,
    find_common_formats,
    find_rule,
)

# No build of torch trains on them.
ELSEWHERE = {"intel-gaudi2-96gb", "qualcomm-ai100-ultra-128gb"}


@pytest.mark.parametrize(
    ("traits", "precision", "fp8"),
    [
        (Traits("nvidia", (7, 0)), "float16", False),
        (Traits("nvidia", (7, 5)), "float16", False),
        (Traits("nvidia", (8, 0)), "bfloat16", False),
        (Traits("nvidia", (8, 6)), "bfloat16", False),
        (Traits("nvidia", (8, 9)), "bfloat16", True),
        (Traits("nvidia", (9, 0)), "bfloat16", True),
        (Traits("nvidia", (12, 0)), "bfloat16", True),
        (Traits("nvidia", (6, 1)), "float32", False),
        (Traits("amd", features=frozenset({"gfx942"})), "bfloat16", True),
        (Traits("amd", features=frozenset({"gfx90a"})), "bfloat16", False),
        (Traits("amd", features=frozenset({"gfx1030"})), "float16", False),
        (Traits("intel"), "bfloat16", False),
        (Traits("cpu", features=frozenset({"avx2"})), "float32", False),
        (Traits("abacus"), "float32", False),
    ],
)
def test_auto_is_the_device_s_best(traits: Traits, precision: str, fp8: bool) -> None:
    assert choose_precision("auto", traits) == precision
    assert find_rule(traits).fp8 is fp8
    # Who asks for a format gets it.
    assert choose_precision("float32", traits) == "float32"


def test_a_processor_s_bfloat16_counts_where_it_has_instructions() -> None:
    for name in ("amx_bf16", "avx512_bf16"):
        assert "bfloat16" in find_rule(Traits("cpu", features=frozenset({"avx2", name}))).formats
    assert find_rule(Traits("cpu", features=frozenset({"avx512_f"}))).formats == ("float32",)
    assert not any("float16" in rule.formats for rule in RULES if rule.vendor == "cpu")


def test_the_rules_and_the_catalogue_agree() -> None:
    ruled = list(chain.from_iterable(rule.devices for rule in RULES))
    catalogue = Catalogue.shipped()
    assert len(ruled) == len(set(ruled))
    assert set(ruled) == set(catalogue.ids) - ELSEWHERE
    for rule in RULES:
        for gpu in map(catalogue.gpu, rule.devices):
            assert gpu.vendor == rule.vendor
            if gpu.vendor != "cpu":
                assert ("bfloat16" in rule.formats) == (gpu.bf16_tflops > 0), gpu.id
                assert rule.fp8 == (gpu.fp8_tflops > 0), gpu.id


def test_one_device_of_a_cluster_is_enough() -> None:
    assert find_common_formats(["nvidia-t4-16gb"]) == ("float16", "float32")
    both = find_common_formats(["nvidia-t4-16gb", "nvidia-l4-24gb"])
    assert both is not None and set(both) == {"float16", "float32", "bfloat16"}
    assert find_common_formats(["nvidia-t4-16gb", "nvidia-z9-1gb"]) is None


def test_this_machine_s_processor_is_read() -> None:
    traits = devices.read_traits(torch.device("cpu"))
    assert traits.vendor == "cpu"
    assert "num_logical_cores" not in traits.features
    assert choose_precision("auto", traits) == "float32"


def test_a_run_is_told_what_it_computes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.describe_device("auto") == "float32 on the processor"
    assert devices.describe_device("bfloat16") == "bfloat16 on the processor"
    monkeypatch.setattr(devices, "default_device", lambda: "cuda")
    monkeypatch.setattr(devices, "read_traits", lambda device: Traits("nvidia", (7, 5)))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert devices.describe_device("auto") == "float16 on Tesla T4"


def test_released_memory_is_that_of_rings_too() -> None:
    class Ring:
        """Refers to itself, so only the collector frees it."""

        count = 0

        def __init__(self) -> None:
            self.ring = self
            Ring.count += 1

        def __del__(self) -> None:
            Ring.count -= 1

    Ring()
    devices.release_memory()
    assert Ring.count == 0
