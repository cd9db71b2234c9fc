"""What the flags of `foundry budsim` mean: models, workloads, clusters, targets, configurations."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from foundry.errors import InvalidRequest

_MAX_FILE_BYTES = 8 * 2**20
# Where neither a cluster nor a number of GPUs is named.
_GPUS_PER_NODE = 8
_TARGETS: Mapping[str, str] = {
    "ttft": "max_ttft_ms",
    "tpot": "max_tpot_ms",
    "latency": "max_latency_ms",
    "throughput": "min_throughput_tps",
    "cost": "max_cost_per_hour",
    "mtok": "max_cost_per_mtok",
}

Model = Annotated[
    str | None, typer.Argument(help="a registered model; or --config, without a server")
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="a config.json, or a directory with one: needs no server"),
]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", help="YAML: groups of {gpu, gpus_per_node, nodes, ...}")
]
Gpus = Annotated[
    list[str] | None,
    typer.Option("--gpu", help="what if: only this GPU; ID:COUNT without a --cluster"),
]
Users = Annotated[float | None, typer.Option(min=1, help="requests always in flight")]
Rate = Annotated[float | None, typer.Option(help="requests per second, instead of --users")]
InputTokens = Annotated[str, typer.Option(help="per request: MEAN, or MEAN/P50/P95")]
OutputTokens = Annotated[str, typer.Option(help="per request: MEAN, or MEAN/P50/P95")]
Slo = Annotated[
    str | None,
    typer.Option(
        help="targets: ttft=, tpot=, latency= (ms), throughput= (tokens/s), cost= ($/h), mtok= ($)"
    ),
]
Percentile = Annotated[str, typer.Option(help="p50, p95 or p99: where latencies are judged")]
Prior = Annotated[bool, typer.Option("--prior", help="physics only, no trained model")]
Json = Annotated[bool, typer.Option("--json", help="short for --output json")]


@dataclass(frozen=True, slots=True)
class Asked:
    """The model of a command. Attributes: local: its configuration came along, no server needed."""

    fields: dict[str, Any]
    local: bool


def asked_model(model: str | None, config: Path | None) -> Asked:
    if (model is None) == (config is None):
        raise InvalidRequest("name a registered model, or give --config FILE, and one only")
    if config is None:
        return Asked({"model": model}, local=False)
    file = config / "config.json" if config.is_dir() else config
    try:
        document = json.loads(text(file))
    except ValueError as error:
        raise InvalidRequest(f"{file} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidRequest(f"{file} is not the config.json of a model")
    weights = sum(part.stat().st_size for part in file.parent.glob("*.safetensors"))
    return Asked(
        {"config": document} | ({"checkpoint_bytes": weights} if weights else {}), local=True
    )


def workload(
    users: float | None, rate: float | None, input_tokens: str, output_tokens: str
) -> dict[str, Any]:
    """One user where nothing is said: the latencies of an idle server."""
    load = {"rate": rate} if rate is not None else {"users": users or 1}
    if rate is not None and users is not None:
        raise InvalidRequest("give --users or --rate, not both")
    lengths = {"input": _lengths(input_tokens), "output": _lengths(output_tokens)}
    return load | lengths


def targets(slo: str | None, percentile: str) -> dict[str, Any]:
    found: dict[str, Any] = {"percentile": percentile}
    for part in (slo or "").split(",") if slo else ():
        name, separator, value = part.partition("=")
        if name.strip() not in _TARGETS or not separator:
            raise InvalidRequest(f"--slo {part!r}: write {', '.join(f'{n}=…' for n in _TARGETS)}")
        found[_TARGETS[name.strip()]] = _number("--slo", value)
    return found


def cluster(file: Path | None, gpus: list[str] | None) -> dict[str, Any] | None:
    """The cluster of a file, cut down to `--gpu`; or nodes of the GPUs that `--gpu` names."""
    wanted = dict(map(_counted, gpus or ()))
    if file is None:
        groups = [{"gpu": name, **_nodes(count)} for name, count in wanted.items()]
        return {"groups": groups} if groups else None
    document = mapping(file)
    groups = document.get("groups", [])
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise InvalidRequest(f"{file}: groups is a list of {{gpu, gpus_per_node, nodes, ...}}")
    if not groups:
        raise InvalidRequest(f"{file} has no groups")
    if wanted:
        groups = _only(file, groups, set(wanted))
    return {"groups": groups}


def _only(file: Path, groups: list[dict[str, Any]], wanted: set[str]) -> list[dict[str, Any]]:
    """Groups of these accelerators, by id or alias."""
    from foundry.engines.budsim.catalogue import Catalogue

    known = Catalogue.shipped()

    def canonical(name: str) -> str:
        return known.gpu(name).id if name in known else name

    ids = {canonical(name) for name in wanted}
    there = [canonical(str(group.get("gpu", ""))) for group in groups]
    kept = [group for group, name in zip(groups, there, strict=True) if name in ids]
    if not kept:
        raise InvalidRequest(f"{file} has no {', '.join(sorted(ids))}: it has {', '.join(there)}")
    return kept


def mapping(file: Path) -> dict[str, Any]:
    """A YAML (or JSON) file that holds a mapping; a bare list counts as its `groups`."""
    try:
        document = yaml.safe_load(text(file))
    except yaml.YAMLError as error:
        raise InvalidRequest(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    if isinstance(document, list):
        return {"groups": document}
    if not isinstance(document, dict):
        raise InvalidRequest(f"{file} holds no mapping")
    return document


def configurations(file: Path) -> list[dict[str, Any]]:
    """A YAML list of configurations."""
    rows = mapping(file).get("groups")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidRequest(f"{file}: a list of configurations, like [{{gpu: nvidia-l4-24gb}}]")
    return rows


def trace(file: Path) -> list[dict[str, float]]:
    """A trace file as the wire's rows."""
    from foundry.engines.budsim.traces import read_trace

    found = read_trace(file)
    columns = zip(
        found.arrival_s.tolist(),
        found.prompt_tokens.tolist(),
        found.output_tokens.tolist(),
        strict=True,
    )
    names = ("arrival_s", "input_tokens", "output_tokens")
    return [dict(zip(names, row, strict=True)) for row in columns]


def prices(changes: list[str]) -> dict[str, float | None]:
    """`id=2.5` sets, `id=` gives the catalogue's price again."""
    found: dict[str, float | None] = {}
    for change in changes:
        gpu, separator, value = change.partition("=")
        if not gpu or not separator:
            raise InvalidRequest(f"{change!r}: write GPU=PRICE, or GPU= to undo")
        found[gpu] = _number(gpu, value) if value else None
    return found


def text(file: Path) -> str:
    """A file of a command line; `-` is standard input."""
    if str(file) == "-":
        return sys.stdin.read(_MAX_FILE_BYTES)
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise InvalidRequest(f"{file} is larger than {_MAX_FILE_BYTES >> 20} MiB")
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file} cannot be read: {error}") from error


def _lengths(given: str) -> dict[str, float]:
    parts = given.split("/")
    if len(parts) not in (1, 3):
        raise InvalidRequest(f"{given!r} tokens: write MEAN or MEAN/P50/P95")
    return {
        name: _number("tokens", part)
        for name, part in zip(("mean", "p50", "p95"), parts, strict=False)
    }


def _counted(gpu: str) -> tuple[str, int]:
    name, separator, count = gpu.partition(":")
    if separator and not (count.isascii() and count.isdigit() and int(count)):
        raise InvalidRequest(f"--gpu {gpu!r}: write ID or ID:COUNT")
    return name, int(count) if separator else _GPUS_PER_NODE


def _nodes(count: int) -> dict[str, int]:
    """One node of up to eight GPUs, then more of eight."""
    if count <= _GPUS_PER_NODE:
        return {"gpus_per_node": count}
    nodes = -(-count // _GPUS_PER_NODE)
    return {"gpus_per_node": _GPUS_PER_NODE, "nodes": nodes, "free_gpus": count}


def _number(what: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidRequest(f"{what}: {value!r} is not a number") from None
