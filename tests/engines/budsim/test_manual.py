"""The specification's YAML, its defaults and everything that can be wrong with it."""

import pytest

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configuration
from foundry.engines.budsim.manual import Manual, check
from foundry.engines.budsim.request import ClusterSpec
from foundry.errors import InvalidRequest
from tests.fakes.models import LLAMA_8B, LLAMA_70B
from tests.fakes.predictor import FakePredictor
from tests.fakes.questions import A100, CHAT, H100

CATALOGUE = Catalogue.shipped()
CLUSTER = ClusterSpec((H100, A100))
GUIDE = """
deployment:
  runtime: vllm
  config:
    tensor_parallel_size: 4
    pipeline_parallel_size: 1
    max_model_len: 8192
    max_num_seqs: 256
    gpu_memory_utilization: 0.9
  replicas: 2
  resources:
    gpu_type: nvidia-a100-80gb
    gpu_count: 4
"""


def _check(text: str, spec: ModelSpec = LLAMA_70B) -> Manual:
    return check(
        text,
        spec,
        catalogue=CATALOGUE,
        cluster=CLUSTER,
        workload=CHAT,
        predictor=FakePredictor(),
    )


def test_the_guides_example_holds_and_is_predicted() -> None:
    manual = _check(GUIDE)
    assert manual.configuration == Configuration(
        "nvidia-a100-80gb", tensor_parallel_size=4, replicas=2
    )
    assert manual.violations == () and manual.warnings == ()
    assert manual.prediction is not None
    assert manual.prediction.cost_per_hour == pytest.approx(8 * 1.29)


def test_defaults() -> None:
    manual = _check("deployment: {resources: {gpu_type: nvidia-h100-80gb}}", LLAMA_8B)
    assert manual.configuration == Configuration(
        gpu="nvidia-h100-80gb",
        runtime="vllm",
        tensor_parallel_size=1,
        pipeline_parallel_size=1,
        replicas=1,
        max_model_len=8192,
        max_num_seqs=256,
        gpu_memory_utilization=0.9,
    )
    assert manual.violations == ()


@pytest.mark.parametrize(
    ("old", "new", "path", "reason"),
    [
        ("runtime: vllm", "runtime: ollama", "runtime", "use one of vllm"),
        ("parallel_size: 4", "parallel_size: 3", "config.tensor_parallel_size", "64 attention"),
        ("parallel_size: 4", "parallel_size: 16", "config.tensor_parallel_size", "one node"),
        ("parallel_size: 4", "parallel_size: 1", "resources.gpu_type", "for weights"),
        (
            "pipeline_parallel_size: 1",
            "pipeline_parallel_size: 99",
            "config.pipeline_parallel_size",
            "1 to 80",
        ),
        ("8192", "999999", "config.max_model_len", "131072"),
        ("8192", "1000", "config.max_model_len", "p95 of 1200"),
        ("max_num_seqs: 256", "max_num_seqs: 5000", "config.max_num_seqs", "use at most 3"),
        ("max_num_seqs: 256", "max_num_seqs: yes", "config.max_num_seqs", "whole number"),
        ("max_num_seqs: 256", "max_num_seqs: 0", "config.max_num_seqs", "outside 1"),
        ("max_num_seqs: 256", "max_num_batched_tokens: 8", "config.max_num_batched_tokens", "256"),
        ("0.9", "1.2", "config.gpu_memory_utilization", "use 0.8 to 0.9"),
        ("0.9", ".nan", "config.gpu_memory_utilization", "not a number"),
        ("replicas: 2", "replicas: 9", "replicas", "hold 4"),
        ("replicas: 2", "replica: 2", "replica", "no known field"),
        ("gpu_count: 4", "gpu_count: 2", "resources.gpu_count", "make them equal"),
        ("nvidia-a100-80gb", "nvidia-t4", "resources.gpu_type", "nvidia-h100-80gb"),
        ("    gpu_type: nvidia-a100-80gb\n", "", "resources.gpu_type", "name an accelerator"),
        ("0.9", "0.9\n    quantization: fp8", "config.quantization", "no fp8 units"),
        ("0.9", "0.9\n    kv_cache_dtype: fp8", "config.kv_cache_dtype", "use auto"),
    ],
)
def test_violations_have_path_and_reason(old: str, new: str, path: str, reason: str) -> None:
    assert GUIDE.count(old) >= 1
    manual = _check(GUIDE.replace(old, new, 1))
    found = {one.path: one.reason for one in manual.violations}
    assert reason in found[f"$.deployment.{path}"]
    assert manual.prediction is None


def test_nothing_is_repaired() -> None:
    manual = _check(GUIDE.replace("max_num_seqs: 256", "max_num_seqs: 5000"))
    assert manual.configuration is not None and manual.configuration.max_num_seqs == 5000


@pytest.mark.parametrize(("utilization", "warned"), [("0.95", True), ("0.7", True), ("0.8", False)])
def test_headroom_outside_ten_to_twenty_percent_warns(utilization: str, warned: bool) -> None:
    manual = _check(GUIDE.replace("0.9", utilization).replace("256", "8"))
    assert manual.violations == ()
    assert [one.path for one in manual.warnings] == (
        ["$.deployment.config.gpu_memory_utilization"] if warned else []
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1, 2]", "no mapping"),
        ("a: [", "^the document is not valid YAML: see line 1, column 5$"),
        ("", "no mapping"),
        ("a" * 70_000, "longer"),
    ],
)
def test_what_is_no_document(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        _check(text)


def test_sections_must_be_mappings() -> None:
    manual = _check("deployment: {config: 7, resources: {gpu_type: nvidia-h100-80gb}}")
    assert [(one.path, one.reason) for one in manual.violations] == [
        ("$.deployment.config", "must be a mapping of fields")
    ]
