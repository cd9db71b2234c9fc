import math
import re

import pytest

from foundry.engines.budsim.catalogue import COMPUTE_FORMATS, Catalogue
from foundry.errors import InvalidRequest

CATALOGUE = Catalogue.shipped()


def test_every_accelerator_of_the_design_is_there() -> None:
    assert set(CATALOGUE.ids) >= {
        "nvidia-h100-80gb", "nvidia-h200-141gb", "nvidia-a100-80gb", "nvidia-a100-40gb",
        "nvidia-l40s-48gb", "nvidia-rtx4090-24gb", "nvidia-rtx3090-24gb", "nvidia-a10g-24gb",
        "nvidia-a10-24gb", "nvidia-l4-24gb", "nvidia-v100-32gb", "nvidia-v100-16gb",
        "nvidia-t4-16gb", "amd-mi300x-192gb", "intel-max1550-128gb", "intel-b60-24gb",
        "qualcomm-ai100-ultra-128gb", "cpu", "nvidia-b200-180gb", "nvidia-b300-270gb",
        "nvidia-gb200-186gb", "nvidia-gb300-279gb", "nvidia-gh200-96gb", "amd-mi250-die-64gb",
        "intel-gaudi2-96gb", "intel-max1550-tile-64gb",
    }  # fmt: skip


# id: (GB, GB/s, bf16, fp16, fp8, fp4, link GB/s)
PEAKS = {
    "nvidia-h100-80gb": (80, 3350, 989, 989, 1978, 0, 450),
    "nvidia-h200-141gb": (141, 4800, 989, 989, 1978, 0, 450),
    "nvidia-a100-80gb": (80, 2039, 312, 312, 0, 0, 300),
    "nvidia-l40s-48gb": (48, 864, 362, 362, 733, 0, 32),
    "nvidia-v100-32gb": (32, 900, 0, 125, 0, 0, 150),
    "nvidia-t4-16gb": (16, 300, 0, 65, 0, 0, 16),
    "amd-mi300x-192gb": (192, 5300, 1307, 1307, 2615, 0, 448),
    "nvidia-b200-180gb": (180, 8000, 2250, 2250, 4500, 9000, 900),
    "nvidia-gb300-279gb": (279, 8000, 2500, 2500, 5000, 10000, 900),
}


@pytest.mark.parametrize("name", PEAKS)
def test_peaks_are_dense(name: str) -> None:
    gpu = CATALOGUE.gpu(name)
    peaks = [gpu.flops(compute) / 1e12 for compute in ("bf16", "fp16", "fp8", "fp4")]
    assert (gpu.memory_gb, gpu.bandwidth_gbps, *peaks, gpu.link_gbps) == PEAKS[name]


# Operations of 10¹²/s, and whether they run in the weights' own format.
ARITHMETIC = {
    ("nvidia-h100-80gb", "fp32"): (989, 1),
    ("nvidia-h100-80gb", "bf16"): (989, 1),
    ("nvidia-h100-80gb", "fp16"): (989, 1),
    ("nvidia-h100-80gb", "fp8"): (1978, 1),
    ("nvidia-h100-80gb", "int4"): (989, 0),
    ("nvidia-h100-80gb", "fp4"): (989, 0),
    ("nvidia-a100-80gb", "fp8"): (312, 0),
    ("nvidia-a100-80gb", "int8"): (624, 1),
    ("nvidia-b200-180gb", "fp4"): (9000, 1),
    # Without a bf16 unit it runs as fp16, and is none the worse.
    ("nvidia-t4-16gb", "bf16"): (65, 1),
    ("nvidia-v100-32gb", "fp16"): (125, 1),
    ("nvidia-v100-32gb", "fp8"): (125, 0),
}


@pytest.mark.parametrize(("name", "weights"), ARITHMETIC)
def test_the_arithmetic_of_weights(name: str, weights: str) -> None:
    peak, native = CATALOGUE.gpu(name).arithmetic(weights)
    assert (peak / 1e12, native) == ARITHMETIC[name, weights]


@pytest.mark.parametrize("name", CATALOGUE.ids)
def test_arithmetic_is_of_its_unit_or_of_16_bits(name: str) -> None:
    gpu = CATALOGUE.gpu(name)
    wide = gpu.flops("fp16")
    assert gpu.arithmetic("int4") == (wide, 0.0)
    for weights in ("fp32", "bf16", "fp16"):
        assert gpu.arithmetic(weights) == (wide, 1.0)
    for weights in ("fp8", "int8", "fp4"):
        own = gpu.flops(weights)
        assert gpu.arithmetic(weights) == ((own, 1.0) if own else (wide, 0.0))


def test_entries_are_consistent() -> None:
    for gpu in CATALOGUE:
        assert gpu.bf16_tflops in (0, gpu.fp16_tflops)
        assert gpu.fp4_tflops in (0, 2 * gpu.fp8_tflops)
        assert gpu.source
        assert (gpu.price_per_hour is None) == (gpu.price_source == "")
        assert 0 < gpu.attained_bandwidth <= 1
        # A hundred operations per byte or more, except where memory is unusually fast.
        if gpu.id != "cpu":
            assert 60 < max(gpu.flops(c) for c in COMPUTE_FORMATS) / gpu.bandwidth_gbps / 1e9 < 2000


@pytest.mark.parametrize(
    ("alias", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb"),
        ("H100", "nvidia-h100-80gb"),
        ("h100_sxm", "nvidia-h100-80gb"),
        ("h100_pcie", "nvidia-h100-pcie-80gb"),
        ("A100-SXM4-80GB", "nvidia-a100-80gb"),
        ("A100-40G", "nvidia-a100-40gb"),
        ("Tesla T4", "nvidia-t4-16gb"),
        ("GeForce-RTX-4090", "nvidia-rtx4090-24gb"),
        ("AMD-Instinct-MI300X-OAM", "amd-mi300x-192gb"),
        ("Intel-GPU-Max-1550", "intel-max1550-128gb"),
        ("gb200", "nvidia-gb200-186gb"),
    ],
)
def test_names_of_drivers_and_schedulers(alias: str, expected: str) -> None:
    assert CATALOGUE.gpu(alias).id == expected
    assert alias in CATALOGUE


def test_an_unknown_name_lists_near_ids() -> None:
    with pytest.raises(InvalidRequest, match=r"did you mean .*nvidia-h100-80gb"):
        CATALOGUE.gpu("nvidia-h100-88gb")
    with pytest.raises(InvalidRequest, match="`foundry budsim catalogue` lists them"):
        CATALOGUE.gpu("☃")
    assert "nothing like it" not in CATALOGUE


def test_prices_are_configuration() -> None:
    priced = CATALOGUE.with_prices({"nvidia-h100-80gb": 1.5, "B200": 4})
    assert priced.gpu("h100").price_per_hour == 1.5
    assert priced.gpu("h100").price_source == "configured"
    assert priced.gpu("b200").price_per_hour == 4.0
    assert CATALOGUE.gpu("h100").price_per_hour == 2.29


@pytest.mark.parametrize("price", [0, -1.0, math.nan, math.inf, True, 2e6, 10**400])
def test_absurd_prices_are_refused(price: float) -> None:
    with pytest.raises(InvalidRequest, match="price of h100 is"):
        CATALOGUE.with_prices({"h100": price})


def test_prices_of_unknown_accelerators_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="did you mean"):
        CATALOGUE.with_prices({"nvidia-h101-80gb": 1.0})


def test_digest_depends_on_the_content_alone() -> None:
    digest = CATALOGUE.digest()
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert Catalogue(reversed(list(CATALOGUE))).digest() == digest
    assert CATALOGUE.with_prices({"h100": 2.30}).digest() != digest
    again = CATALOGUE.with_prices({"h100": 2.30}).with_prices({"h100": 2.31})
    assert again.digest() == CATALOGUE.with_prices({"h100": 2.31}).digest()


MINE = """
H100:
  price_per_hour: 1.75
mine-accelerator:
  name: Mine
  vendor: mine
  memory_gb: 64
  bandwidth_gbps: 1000
  fp16_tflops: 100
  link_gbps: 32
  link: pcie
  aliases: [mine]
"""


def test_an_overlay_changes_and_adds() -> None:
    catalogue = CATALOGUE.overlaid(MINE)
    assert catalogue.gpu("h100").price_per_hour == 1.75
    assert catalogue.gpu("h100").bandwidth_gbps == 3350
    mine = catalogue.gpu("mine")
    assert (mine.id, mine.memory_gb, mine.fp16_tflops) == ("mine-accelerator", 64.0, 100.0)
    assert (mine.fp8_tflops, mine.price_per_hour, mine.verified) == (0.0, None, False)
    assert len(catalogue.ids) == len(CATALOGUE.ids) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a list", "expected a mapping"),
        ("a: [", "not valid YAML"),
        ("a: 2026-13-45", "not valid YAML"),
        ("a: 3", "a: expected fields"),
        ("a: {memory_bg: 3}", "a.memory_bg is unknown; did you mean memory_gb?"),
        ("cpu: {id: other}", "cpu.id is unknown"),
        ("a: {memory_gb: 3}", "a lacks name, vendor, bandwidth_gbps, link_gbps, link"),
        ("cpu: {memory_gb: 0}", "cpu.memory_gb is '0'; it must be a number above 0"),
        ("cpu: {memory_gb: .nan}", "cpu.memory_gb is 'nan'"),
        ("cpu: {memory_gb: big}", "cpu.memory_gb is 'big'"),
        ("cpu: {attained_flops: 1.5}", "cpu.attained_flops is '1.5'"),
        ("cpu: {link: carrier pigeon}", "cpu.link must be nvlink or pcie or fabric or none"),
        ("cpu: {verified: perhaps}", "cpu.verified must be true or false"),
        ("cpu: {aliases: H100}", "cpu.aliases must be a list"),
        ("cpu: {aliases: [H100]}", "names both nvidia-h100-80gb and cpu"),
        ("cpu: {bf16_tflops: 0, fp16_tflops: 0, int8_tops: 0}", "cpu cannot compute"),
    ],
)
def test_overlay_errors_name_the_field(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        CATALOGUE.overlaid(text)
