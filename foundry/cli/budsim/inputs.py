"""What flags and files mean: models, workloads, clusters, targets, configurations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foundry.cli.files import describe_kind, parse_mapping, read_json, read_text, read_yaml
from foundry.engines.model_files import CONFIG, WEIGHTS_SUFFIX
from foundry.errors import Conflict, InvalidRequest, NotFound

if TYPE_CHECKING:
    from pydantic import BaseModel

# Where neither a cluster nor a number of GPUs is named.
_GPUS_PER_NODE = 8
TARGETS: Mapping[str, str] = {
    "ttft": "max_ttft_ms",
    "tpot": "max_tpot_ms",
    "latency": "max_latency_ms",
    "throughput": "min_throughput_tps",
    "cost": "max_cost_per_hour",
    "mtok": "max_cost_per_mtok",
}
# A mean has no percentile, and neither has money.
_JUDGED_AT_PERCENTILE = ("max_ttft_ms", "max_latency_ms")


@dataclass(frozen=True, slots=True)
class Asked:
    """The model of a command.

    Attributes:
        local: its configuration came along, no server needed.
    """

    fields: dict[str, Any]
    local: bool


def read_model(model: str | None, config: Path | None) -> Asked:
    """The model that is asked about: a registered one, or a configuration.

    Raises Conflict: both are given; InvalidRequest: neither, or no configuration of a model.
    """
    if model is not None and config is not None:
        raise Conflict(f"{model} is registered and --config is a file: give one of them")
    if config is None:
        if model is None:
            raise InvalidRequest("which model? Name a registered one, or give --config FILE")
        return Asked({"model": model}, local=False)
    file = config / CONFIG if config.is_dir() else config
    document = read_json(file)
    if not isinstance(document, dict):
        raise InvalidRequest(f"{file} is not the {CONFIG} of a model: it is no JSON object")
    _check_architecture(file, document)
    weights = sum(part.stat().st_size for part in file.parent.glob(f"*{WEIGHTS_SUFFIX}"))
    return Asked(
        {"config": document} | ({"checkpoint_bytes": weights} if weights else {}), local=True
    )


def _check_architecture(file: Path, document: Mapping[str, object]) -> None:
    """Refuse a configuration of which no sizes can be computed.

    Raises InvalidRequest, UnsupportedFeature: budsim cannot size it; names the file.
    """
    from foundry.engines.budsim.model_config import model_spec

    try:
        model_spec(document)
    except InvalidRequest as error:
        reason = error.message.removeprefix("config.json ")
        joint = " " if reason != error.message else ": "
        raise type(error)(f"{file}{joint}{reason}") from error


def build_workload(
    users: float | None, rate: float | None, input_tokens: str, output_tokens: str
) -> dict[str, Any]:
    """One user where nothing is said: the latencies of an idle server."""
    if rate is not None and users is not None:
        raise Conflict(
            "--users keeps requests in flight and --rate lets them arrive: give one of them"
        )
    load = {"rate": rate} if rate is not None else {"users": users or 1}
    lengths = {
        "input": _parse_lengths("--input-tokens", input_tokens),
        "output": _parse_lengths("--output-tokens", output_tokens),
    }
    return load | lengths


def build_targets(
    slo: Iterable[str] | None, percentile: str, percentile_given: bool = False
) -> dict[str, Any]:
    """The targets, as the server takes them.

    Raises Conflict: a target is named twice, or the percentile judges none of them.
    """
    found: dict[str, Any] = {"percentile": percentile}
    for part in ",".join(slo or ()).split(",") if slo else ():
        name, separator, value = part.partition("=")
        field = TARGETS.get(name.strip())
        if field is None or not separator:
            raise InvalidRequest(f"--slo {part!r}: write {', '.join(f'{n}=…' for n in TARGETS)}")
        if field in found:
            raise Conflict(f"--slo names {name.strip()} twice: give it once")
        found[field] = _parse_number(f"--slo {name.strip()}", value)
    if percentile_given and not found.keys() & set(_JUDGED_AT_PERCENTILE):
        raise Conflict(
            f"--percentile {percentile} would be ignored: it judges the targets ttft and latency; "
            "give one with --slo, or leave it out"
        )
    return found


def build_cluster(file: Path | None, gpus: list[str] | None) -> dict[str, Any] | None:
    """The cluster of a file, cut down to `--gpu`; or nodes of the GPUs that `--gpu` names."""
    wanted = _parse_gpus(gpus or ())
    if file is None:
        groups = [{"gpu": name, **_count_nodes(count)} for name, count in wanted.items()]
        return {"groups": groups} if groups else None
    counted = [f"{name}:{count}" for name, count in wanted.items() if count is not None]
    if counted:
        raise Conflict(
            f"the count of --gpu {counted[0]} would be ignored: {file} says how many there are; "
            "give the ID alone, or leave --cluster out"
        )
    groups = _read_groups(file)
    return {"groups": _keep_named(file, groups, set(wanted)) if wanted else groups}


def check_rows(model: type[BaseModel], rows: Iterable[object], file: Path, what: str) -> None:
    """Refuse a file with an entry that is not as it should be.

    Raises InvalidRequest: an entry of the file is no `model`; names it and its field.
    """
    from foundry.sdk.errors import checked

    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InvalidRequest(f"{file}, {what} {number}: {describe_kind(row)}, not a mapping")
        try:
            checked(model, {str(name): value for name, value in row.items()})
        except InvalidRequest as error:
            raise InvalidRequest(f"{file}, {what} {number}: {error.message}") from error


def read_configurations(file: Path) -> list[dict[str, Any]]:
    """A YAML list of configurations."""
    from foundry.serving.recommendations.schemas import ConfigurationIn

    rows = read_yaml(file)
    if not isinstance(rows, list) or not rows:
        raise InvalidRequest(
            f"{file} holds {describe_kind(rows)}: write a list of configurations, like "
            "`- {gpu: nvidia-l4-24gb, replicas: 2}`"
        )
    check_rows(ConfigurationIn, rows, file, "configuration")
    return rows


def read_deployment(file: Path) -> str:
    """The text of a file with `deployment:`; the rules are checked where it is predicted."""
    # Once: standard input cannot be read again.
    text = read_text(file)
    if "deployment" not in parse_mapping(file, text):
        raise InvalidRequest(f"{file} has no `deployment:`, under which the configuration stands")
    return text


def read_trace_rows(file: Path) -> list[dict[str, float]]:
    """A trace file as the wire's rows."""
    from foundry.engines.budsim.traces import read_trace
    from foundry.serving.recommendations.schemas import MAX_TRACE_ROWS

    if not file.exists():
        raise NotFound(f"there is no file {file}")
    found = read_trace(file)
    if len(found) > MAX_TRACE_ROWS:
        raise InvalidRequest(
            f"{file} holds {len(found)} requests and {MAX_TRACE_ROWS} are the most: shorten it"
        )
    columns = zip(
        found.arrival_s.tolist(),
        found.prompt_tokens.tolist(),
        found.output_tokens.tolist(),
        strict=True,
    )
    names = ("arrival_s", "input_tokens", "output_tokens")
    return [dict(zip(names, row, strict=True)) for row in columns]


def parse_prices(changes: Iterable[str]) -> dict[str, float | None]:
    """`id=2.5` sets, `id=` gives the catalogue's price again."""
    found: dict[str, float | None] = {}
    for change in changes:
        gpu, separator, value = change.partition("=")
        if not gpu or not separator:
            raise InvalidRequest(f"{change!r}: write GPU=PRICE, or GPU= to undo")
        if gpu in found:
            raise Conflict(f"{gpu} is named twice: give it one price")
        found[gpu] = _parse_number(gpu, value) if value else None
    return found


def read_json_object(file: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises InvalidRequest: it is not `what`.
    """
    document = read_json(file)
    if not isinstance(document, dict):
        raise InvalidRequest(f"{file} is not {what}: it is no JSON object")
    return document


def _read_groups(file: Path) -> list[dict[str, Any]]:
    """Read node groups from a file with `groups:`, or with a bare list."""
    from foundry.serving.recommendations.schemas import NodeGroupIn

    document = read_yaml(file)
    groups = document.get("groups") if isinstance(document, dict) else document
    if not isinstance(groups, list) or not groups:
        raise InvalidRequest(
            f"{file} has no groups: write `groups:` and below it "
            "`- {gpu: nvidia-l4-24gb, gpus_per_node: 4, nodes: 2}`"
        )
    if isinstance(document, dict) and (others := document.keys() - {"groups"}):
        raise InvalidRequest(f"{file}: {min(map(str, others))} is not a known field beside groups")
    check_rows(NodeGroupIn, groups, file, "group")
    return groups


def _keep_named(file: Path, groups: list[dict[str, Any]], wanted: set[str]) -> list[dict[str, Any]]:
    """Groups of these accelerators, by id or alias. Raises InvalidRequest: one is not there."""
    from foundry.engines.budsim.catalogue import Catalogue

    known = Catalogue.shipped()

    def canonical(name: str) -> str:
        return known.gpu(name).id if name in known else name

    ids = {canonical(name) for name in wanted}
    there = [canonical(str(group.get("gpu", ""))) for group in groups]
    if missing := ids - set(there):
        raise InvalidRequest(
            f"{file} has no {', '.join(sorted(missing))}: it has {', '.join(there)}"
        )
    return [group for group, name in zip(groups, there, strict=True) if name in ids]


def _parse_lengths(flag: str, given: str) -> dict[str, float]:
    parts = given.split("/")
    if len(parts) not in (1, 3):
        raise InvalidRequest(f"{flag} {given}: write MEAN or MEAN/P50/P95")
    return {
        name: _parse_number(flag, part)
        for name, part in zip(("mean", "p50", "p95"), parts, strict=False)
    }


def _parse_gpus(gpus: Iterable[str]) -> dict[str, int | None]:
    """How many of each accelerator, by id; None: nothing was said."""
    found: dict[str, int | None] = {}
    for gpu in gpus:
        name, separator, count = gpu.partition(":")
        if not name or (separator and not (count.isascii() and count.isdigit() and int(count))):
            raise InvalidRequest(f"--gpu {gpu}: write ID or ID:COUNT")
        if name in found:
            raise Conflict(f"--gpu names {name} twice: give it once, with the whole count")
        found[name] = int(count) if separator else None
    return found


def _count_nodes(count: int | None) -> dict[str, int]:
    """One node of up to eight GPUs, then more of eight."""
    if count is None or count <= _GPUS_PER_NODE:
        return {"gpus_per_node": count or _GPUS_PER_NODE}
    nodes = -(-count // _GPUS_PER_NODE)
    return {"gpus_per_node": _GPUS_PER_NODE, "nodes": nodes, "free_gpus": count}


def _parse_number(what: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidRequest(f"{what}: {value!r} is not a number") from None
