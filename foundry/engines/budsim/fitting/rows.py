"""The published measurements as operating points, with every known trap taken out.

The files stay where `FOUNDRY_BUDSIM_DATA` points, in the folder `serving-benchmarks` or directly;
their README lists columns, units, licences and traps. Names of models, GPUs and engines survive
only as labels of groups.
"""

import csv
import gzip
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from foundry.engines.budsim.catalogue import Catalogue
from foundry.engines.budsim.points import DEFAULT_CHUNK, ENGINES, Column, Points
from foundry.errors import InvalidRequest

Row = Mapping[str, str]
Labels = NDArray[np.str_]

_FOLDER = "serving-benchmarks"
SERVING = "inferencex_silicon.csv.gz"
PILOT = "llm_pilot.csv.gz"
STATIC = "argonne_llm_inference_bench.csv.gz"
PARALLEL = "argonne_tp_pp_ep.csv"

_GPUS = {
    "h100_sxm": "nvidia-h100-80gb",
    "h200_sxm": "nvidia-h200-141gb",
    "b200_sxm": "nvidia-b200-180gb",
    "b300_sxm": "nvidia-b300-270gb",
    "gb200": "nvidia-gb200-186gb",
    "gb300": "nvidia-gb300-279gb",
    "T4": "nvidia-t4-16gb",
    "V100": "nvidia-v100-16gb",
    "A100": "nvidia-a100-40gb",
    "H100": "nvidia-h100-80gb",
    "Nvidia A100 GPU": "nvidia-a100-40gb",
    "Nvidia H100 GPU": "nvidia-h100-80gb",
    "Nvidia GH200 GPU": "nvidia-gh200-96gb",
    "AMD MI300X GPU": "amd-mi300x-192gb",
    "AMD MI250 GPU": "amd-mi250-die-64gb",
    "Intel Max 1550": "intel-max1550-128gb",
    "Intel PVC GPU": "intel-max1550-tile-64gb",
}
_ENGINES = {"vllm": "vllm", "sglang": "sglang", "trtllm": "tensorrt-llm"}
_STATIC_ENGINES = {"vLLM": "vllm", "TensorRT-LLM": "tensorrt-llm"}
# Bytes per weight and the format of the arithmetic where the hardware has it.
_PRECISIONS = {
    "": (2.0, "bf16"),
    "bf16": (2.0, "bf16"),
    "fp8": (1.0, "fp8"),
    "fp4": (0.56, "fp4"),
    "int4": (0.56, "int4"),
}


@dataclass(frozen=True, slots=True)
class Rows:
    """N measured configurations; repeated measurements of one are their median.

    Attributes:
        model, gpu, engine, configuration: labels of groups, for splits only.
        targets: by name, each (N,), NaN where unmeasured. Milliseconds, or tokens/s.
    """

    points: Points
    model: Labels
    gpu: Labels
    engine: Labels
    configuration: Labels
    targets: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.model)

    @property
    def architecture(self) -> Labels:
        """The model's shape as a label: two names may share one."""
        columns = ("layers", "hidden", "heads", "kv_width", "parameters", "encoder")
        values = zip(*(getattr(self.points, name) for name in columns), strict=True)
        return np.asarray([" ".join(f"{value:g}" for value in shape) for shape in values])

    def take(self, indices: NDArray[np.int64] | NDArray[np.bool_]) -> "Rows":
        return Rows(
            self.points.take(indices),
            self.model[indices],
            self.gpu[indices],
            self.engine[indices],
            self.configuration[indices],
            {name: column[indices] for name, column in self.targets.items()},
        )


@dataclass(frozen=True, slots=True)
class _Measured:
    """One row of a file on its way to a column."""

    model: str
    gpu: str
    engine: str
    tp: float
    batch: float
    input: float
    output: float
    targets: Mapping[str, float]
    wb: float = 2.0
    compute: str = "fp16"
    kb: float = 2.0
    pp: float = 1.0
    dp: float = 1.0
    ep: float = 1.0
    month: float = 0.0

    @property
    def key(self) -> tuple[object, ...]:
        """What makes two rows measurements of one configuration."""
        return tuple(
            getattr(self, item.name)
            for item in fields(self)
            if item.name not in ("targets", "month")
        )


def serving_rows(directory: Path) -> Rows:
    """InferenceX: closed-loop serving, means of TTFT and TPOT."""
    catalogue = Catalogue.shipped()
    kept = [_serving(row) for row in _read(directory, SERVING) if serving_trap(row) is None]
    return _collected(kept, catalogue)


def serving_measurements(directory: Path) -> Iterator[tuple[Row, str]]:
    """The usable rows of the serving file as they stand, with their `Rows.configuration`."""
    for row in _read(directory, SERVING):
        if serving_trap(row) is None:
            yield row, repr(_serving(row).key)


def serving_trap(row: Row) -> str | None:
    """Why a row of the serving file cannot be used as it stands; None: it can."""
    if row["mode"] != "agg":
        return "disaggregated"
    tp, dp = int(row["tp_size"]), int(row["attention_dp_size"] or 1)
    if dp == 0:
        return "attention_dp 0"
    if not row["system"].startswith("gb"):
        if tp in (16, 64):
            return "tp holds tp·ep"
        return "tp·dp beyond the node" if tp * dp > 8 else None
    return None if int(_shape(row["model_path"])["heads"]) % tp == 0 else "tp is a total"


def _serving(row: Row) -> _Measured:
    weight_bytes, compute = _PRECISIONS[row["precision"]]
    quantised = row["precision"] in ("fp8", "fp4")
    return _Measured(
        model=_canonical(row["model_path"]),
        gpu=_GPUS[row["system"]],
        engine=_ENGINES[row["backend"]],
        tp=float(row["tp_size"]),
        dp=float(row["attention_dp_size"] or 1),
        ep=max(float(row["moe_ep_size"] or 1), 1.0),
        batch=float(row["batch_size"]),
        input=float(row["isl"]),
        output=float(row["osl"]),
        wb=weight_bytes,
        compute=compute,
        kb=1.0 if quantised else 2.0,
        month=_month(row["silicon_data_source"]),
        targets={
            "ttft_ms": float(row["silicon_ttft_ms"]),
            "tpot_ms": float(row["silicon_tpot_ms"]),
        },
    )


def _month(source: str) -> float:
    """Months from January 2023 to the measurement."""
    found = re.search(r"measured=(\d{4})-(\d{2})", source)
    year, month = (int(found[1]), int(found[2])) if found else (2026, 1)
    return (year - 2023) * 12.0 + month - 1


# More failed requests than this share: the latencies are those of the survivors.
_ERROR_SHARE = 0.05


def pilot_rows(directory: Path) -> Rows:
    """LLM-Pilot: TGIS on four GPU types, percentiles by number of users."""
    kept = [
        _pilot(row) for row in _read(directory, PILOT) if pilot_error_share(row) <= _ERROR_SHARE
    ]
    return _collected(kept, Catalogue.shipped())


def pilot_error_share(row: Row) -> float:
    errors, answered = float(row["n_errors"]), float(row["n_requests"])
    return errors / max(errors + answered, 1.0)


def _pilot(row: Row) -> _Measured:
    return _Measured(
        model=row["model"],
        gpu=_GPUS[row["gpu_type"]],
        engine="unknown",
        tp=float(row["n_gpus"]),
        batch=float(row["num_users"]),
        input=float(row["input_tokens_mean"]),
        output=float(row["output_tokens_mean"]),
        month=9.0,
        targets={
            "itl_ms": float(row["itl_ms_p50"]),
            "ttft_ms": float(row["ttft_ms_p50"]),
            "ttft_mean_ms": float(row["ttft_ms_mean"]),
            "ttft_p95_ms": float(row["ttft_ms_p95"]),
            "throughput_tps": float(row["throughput_out_tok_s"]),
        },
    )


def static_rows(directory: Path) -> Rows:
    """Argonne: latency of a static batch, both files; vLLM and TensorRT-LLM only."""
    kept = [_static(row) for row in _read(directory, STATIC) if row["Framework"] in _STATIC_ENGINES]
    kept += [_parallel(row) for row in _read(directory, PARALLEL)]
    return _collected(kept, Catalogue.shipped())


def _static(row: Row) -> _Measured:
    length = float(row["Input Output Length"])
    return _Measured(
        model=row["Model"],
        gpu=_GPUS[row["Hardware"]],
        engine=_STATIC_ENGINES[row["Framework"]],
        tp=float(row["Num of Hardware"]),
        batch=float(row["Batch Size"]),
        input=length,
        output=length,
        month=18.0,
        targets={"latency_ms": float(row["Latency"]) * 1e3},
    )


def _parallel(row: Row) -> _Measured:
    devices = float(row["Num of Hardware"])
    kind = row["Parallelism Type"].lower()
    hybrid = kind.startswith("hyb")
    share = 2.0 if hybrid else 1.0
    pipeline = "pp" in kind or "pipeline" in kind
    pp = devices / share if pipeline else 1.0
    length = float(row["Input Output Length"])
    return _Measured(
        model=row["Model"],
        gpu=_GPUS[row["Hardware"]],
        engine="tensorrt-llm",
        tp=devices / pp,
        pp=pp,
        ep=devices / share if "ep" in kind else 1.0,
        batch=float(row["Batch Size"]),
        input=length,
        output=length,
        month=18.0,
        targets={"latency_ms": float(row["Latency"]) * 1e3},
    )


def digests(directory: Path) -> dict[str, str]:
    """sha256 of each file that training reads."""
    return {
        name: hashlib.sha256(file_in(directory, name).read_bytes()).hexdigest()
        for name in (SERVING, PILOT, STATIC, PARALLEL)
    }


def file_in(directory: Path, name: str) -> Path:
    """Raises InvalidRequest: the file is not there."""
    nested = directory / _FOLDER
    path = (nested if nested.is_dir() else directory) / name
    if not path.is_file():
        raise InvalidRequest(
            f"{path} does not exist: set FOUNDRY_BUDSIM_DATA to the folder that holds {_FOLDER}"
        )
    return path


def _read(directory: Path, name: str) -> Iterator[Row]:
    """Raises InvalidRequest: the file is not there."""
    path = file_in(directory, name)
    content = path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    yield from csv.DictReader(io.StringIO(text.decode()))


@cache
def _shapes() -> tuple[Mapping[str, Mapping[str, float]], Mapping[str, str]]:
    document = yaml.safe_load(
        files("foundry.engines.budsim.fitting").joinpath("shapes.yaml").read_text()
    )
    columns: Sequence[str] = document["columns"]
    shapes = {
        name: dict(zip(columns, values, strict=True)) for name, values in document["models"].items()
    }
    for shape in shapes.values():
        for name in ("parameters", "active", "expert_parameters"):
            shape[name] *= 1e9
    return shapes, document["same"]


def _canonical(model: str) -> str:
    return _shapes()[1].get(model, model)


def _shape(model: str) -> Mapping[str, float]:
    return _shapes()[0][_canonical(model)]


def _collected(measured: Iterable[_Measured], catalogue: Catalogue) -> Rows:
    """One row per configuration, in a fixed order."""
    groups: dict[tuple[object, ...], list[_Measured]] = {}
    for row in measured:
        groups.setdefault(row.key, []).append(row)
    kept = [groups[key] for key in sorted(groups, key=repr)]
    heads = [rows[0] for rows in kept]
    names = heads[0].targets
    return Rows(
        points=_points(
            heads, [float(np.median([r.month for r in rows])) for rows in kept], catalogue
        ),
        model=np.asarray([row.model for row in heads]),
        gpu=np.asarray([row.gpu for row in heads]),
        engine=np.asarray([row.engine for row in heads]),
        configuration=np.asarray([repr(row.key) for row in heads]),
        targets={
            name: np.asarray([np.median([row.targets[name] for row in rows]) for rows in kept])
            for name in names
        },
    )


def _points(rows: Sequence[_Measured], months: Sequence[float], catalogue: Catalogue) -> Points:
    gpus = [catalogue.gpu(row.gpu) for row in rows]
    shapes = [_shape(row.model) for row in rows]
    columns = {name: [shape[name] for shape in shapes] for name in shapes[0]}
    for name in ("tp", "pp", "dp", "ep", "wb", "kb", "batch", "input", "output"):
        columns[name] = [getattr(row, name) for row in rows]
    columns["engine"] = [ENGINES.index(row.engine) for row in rows]
    columns["month"] = list(months)
    columns["chunk"] = [DEFAULT_CHUNK] * len(rows)
    columns["cached"] = [0.0] * len(rows)
    columns["memory"] = [gpu.memory_gb * 1e9 for gpu in gpus]
    columns["bandwidth"] = [gpu.bandwidth_gbps * 1e9 for gpu in gpus]
    columns["flops16"] = [gpu.flops("fp16") for gpu in gpus]
    compute = [gpu.arithmetic(row.compute) for gpu, row in zip(gpus, rows, strict=True)]
    columns["flops"] = [peak for peak, _ in compute]
    columns["native"] = [native for _, native in compute]
    columns["link"] = [gpu.link_gbps * 1e9 for gpu in gpus]
    columns["nvlink"] = [float(gpu.link == "nvlink") for gpu in gpus]
    return Points(
        **{name: np.asarray(values, dtype=np.float64) for name, values in columns.items()}
    )
