"""Manual configuration: the specification's YAML, checked by the rules that the search repairs to.

Nothing is repaired here: what breaks a rule is reported with its JSON path and left as it is.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

import yaml

from foundry.engines.budsim.architecture import ModelSpec
from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.configuration import Configuration, Configurations
from foundry.engines.budsim.prediction import Prediction
from foundry.engines.budsim.request import (
    ClusterSpec,
    KvDtype,
    Method,
    Policy,
    Quantization,
    Request,
    Runtime,
    Targets,
    Workload,
)
from foundry.engines.budsim.search.evaluation import Evaluator, Predicts
from foundry.engines.budsim.search.judging import judge_first
from foundry.engines.budsim.search.recommendation import Target
from foundry.engines.budsim.search.rules import Ground, broken
from foundry.engines.budsim.search.validation import validate_cluster, validate_workload
from foundry.errors import InvalidRequest
from foundry.validation import tell_place

MAX_BYTES = 65_536

_Value = str | int | float
# Path below `deployment`, type, values allowed where they are few, default (None: from context).
_FIELDS: dict[str, tuple[tuple[str, ...], type, tuple[str, ...], _Value | None]] = {
    "runtime": (("runtime",), str, get_args(Runtime), "vllm"),
    "tensor_parallel_size": (("config", "tensor_parallel_size"), int, (), 1),
    "pipeline_parallel_size": (("config", "pipeline_parallel_size"), int, (), 1),
    "max_model_len": (("config", "max_model_len"), int, (), None),
    "max_num_seqs": (("config", "max_num_seqs"), int, (), 256),
    "max_num_batched_tokens": (("config", "max_num_batched_tokens"), int, (), 8192),
    "gpu_memory_utilization": (("config", "gpu_memory_utilization"), float, (), 0.9),
    "quantization": (("config", "quantization"), str, get_args(Quantization), "none"),
    "kv_cache_dtype": (("config", "kv_cache_dtype"), str, get_args(KvDtype), "auto"),
    "replicas": (("replicas",), int, (), 1),
    "gpu": (("resources", "gpu_type"), str, (), None),
    "gpu_count": (("resources", "gpu_count"), int, (), None),
}
_PATHS = {field: "$.deployment." + ".".join(entry[0]) for field, entry in _FIELDS.items()}
# Memory is no field: what must change is the accelerator, or how many share the model.
_PATHS["memory"] = _PATHS["gpu"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with, or worth a word about, one place of a document.

    Attributes:
        path: JSON path, like `$.deployment.config.max_num_seqs`.
    """

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Manual:
    """A manual configuration as read.

    Attributes:
        configuration: with the defaults; None: it cannot be read.
        violations: empty: it can be deployed.
        prediction: where it can be deployed and a predictor was given.
        targets: how the prediction stands to those that were given.
        overloaded: the load is more than it carries, whatever the targets.
    """

    configuration: Configuration | None
    violations: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    prediction: Prediction | None = None
    targets: tuple[Target, ...] = ()
    overloaded: bool = False


def check(
    document: str | Mapping[str, object],
    spec: ModelSpec,
    *,
    catalogue: Catalogue,
    cluster: ClusterSpec,
    workload: Workload,
    predictor: Predicts | None = None,
    method: Method = "REGRESSOR",
    confidence: float = 0.9,
    targets: Targets | None = None,
) -> Manual:
    """Reads and checks a `deployment` document, and predicts it where it holds.

    Raises:
        InvalidRequest: the text is no YAML mapping, or cluster or workload are invalid.
    """
    validate_cluster(cluster, catalogue)
    validate_workload(workload)
    configuration, violations = _read(_mapping(document), spec, cluster)
    if configuration is None:
        return Manual(None, tuple(violations), ())
    violations += _broken(configuration, spec, catalogue, cluster, workload)
    manual = Manual(configuration, tuple(violations), tuple(_warnings(configuration)))
    if violations or predictor is None:
        return manual
    request = Request(workload, cluster, policy=Policy(confidence=confidence), method=method)
    rows = Configurations.of([configuration])
    predictions = Evaluator(spec, request, catalogue, predictor).predict(rows)
    judged, overloaded = judge_first(predictions, targets or Targets(), workload)
    return Manual(configuration, (), manual.warnings, predictions.at(0), judged, overloaded)


def _mapping(document: str | Mapping[str, object]) -> Mapping[str, object]:
    if isinstance(document, str):
        if len(document) > MAX_BYTES:
            raise InvalidRequest(f"the document is longer than {MAX_BYTES} characters")
        try:
            document = yaml.safe_load(document)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise InvalidRequest(f"the document is not valid YAML{tell_place(error)}") from error
    if not isinstance(document, Mapping):
        raise InvalidRequest("the document is no mapping: start with `deployment:`")
    return document


def _read(
    document: Mapping[str, object], spec: ModelSpec, cluster: ClusterSpec
) -> tuple[Configuration | None, list[Finding]]:
    """The configuration with defaults, and what cannot be read."""
    findings: list[Finding] = []
    leaves = _leaves(document, findings)
    values: dict[str, _Value | None] = {}
    for field, (_, kind, allowed, default) in _FIELDS.items():
        given = leaves.pop(_PATHS[field], None)
        values[field] = default if given is None else _typed(given, kind)
        reason = "" if given is None else _refusal(given, values[field], kind, allowed)
        if reason:
            findings.append(Finding(_PATHS[field], reason))
    findings += [Finding(path, "is no known field; remove it") for path in leaves]
    if values["gpu"] not in {group.gpu for group in cluster.groups} and not any(
        one.path == _PATHS["gpu"] for one in findings
    ):
        names = ", ".join(group.gpu for group in cluster.groups)
        findings.append(Finding(_PATHS["gpu"], f"name an accelerator of the cluster: {names}"))
    if findings:
        return None, findings
    count = values.pop("gpu_count")
    if values["max_model_len"] is None:
        values["max_model_len"] = spec.max_length
    configuration = Configuration(**values)  # type: ignore[arg-type]
    needed = configuration.tensor_parallel_size * configuration.pipeline_parallel_size
    if count is not None and count != needed:
        reason = (
            f"{count} accelerators per replica, but tensor_parallel_size times "
            f"pipeline_parallel_size is {needed}; make them equal"
        )
        findings.append(Finding(_PATHS["gpu_count"], reason))
    return configuration, findings


def _leaves(document: Mapping[str, object], findings: list[Finding]) -> dict[str, object]:
    """Values by path; sections that are no mappings become findings."""
    leaves: dict[str, object] = {}
    sections = {"$.deployment", "$.deployment.config", "$.deployment.resources"}
    pending: list[tuple[str, object]] = [("$", document)]
    while pending:
        path, value = pending.pop()
        if path != "$" and path not in sections:
            leaves[path] = value
        elif isinstance(value, Mapping):
            pending += [(f"{path}.{name}", item) for name, item in value.items()]
        elif value is not None:
            findings.append(Finding(path, "must be a mapping of fields"))
    return leaves


def _typed(given: object, kind: type) -> _Value | None:
    """The value in the field's type; None: it is of another one."""
    if isinstance(given, bool):
        return None
    if kind is float and isinstance(given, int | float):
        return float(given)
    return given if isinstance(given, kind) and isinstance(given, str | int) else None


def _refusal(given: object, value: _Value | None, kind: type, allowed: tuple[str, ...]) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        names = {int: "a whole number", float: "a number", str: "a text"}
        return f"{_write(given)} is not {names[kind]}"
    if allowed and value not in allowed:
        return f"{value} is unknown; use one of {', '.join(allowed)}"
    if kind is int and isinstance(value, int) and not 1 <= value <= 2**31:
        return f"{value} is outside 1 to 2147483648"
    return ""


def _write(given: object) -> str:
    """As it stands in the document, cut where it is long."""
    return json.dumps(given, default=str)[:80]


def _broken(
    configuration: Configuration,
    spec: ModelSpec,
    catalogue: Catalogue,
    cluster: ClusterSpec,
    workload: Workload,
) -> list[Finding]:
    tokens = workload.input.mean + workload.output.mean
    rules = broken(Ground(spec, catalogue, cluster, tokens), Configurations.of([configuration]))
    found = [Finding(_PATHS[rule.field], rule.reason(0)) for rule in rules if rule.where[0]]
    need = math.ceil(workload.input.p95 + workload.output.p95)
    if need > configuration.max_model_len:
        reason = (
            f"{configuration.max_model_len} is below the workload's p95 of {need} tokens; raise it"
        )
        found.append(Finding(_PATHS["max_model_len"], reason))
    return found


def _warnings(configuration: Configuration) -> Iterator[Finding]:
    headroom = 1.0 - configuration.gpu_memory_utilization
    if not 0.1 - 1e-9 <= headroom <= 0.2 + 1e-9:
        reason = (
            f"leaves {headroom:.0%} of the memory free; 10 % to 20 % is recommended: less risks "
            "running out of memory, more wastes KV cache"
        )
        yield Finding(_PATHS["gpu_memory_utilization"], reason)
