"""The published files, and every trap in them."""

import csv
import gzip
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foundry.engines.budsim.features import full, matrix
from foundry.engines.budsim.fitting.rows import (
    PARALLEL,
    PILOT,
    SERVING,
    STATIC,
    Rows,
    _parallel,
    _read,
    digests,
    pilot_error_share,
    serving_trap,
)
from foundry.engines.budsim.physics import prior
from foundry.errors import InvalidRequest

_PLAIN = {
    "mode": "agg",
    "system": "h100_sxm",
    "model_path": "meta-llama/Llama-3.1-70B",
    "tp_size": "8",
    "attention_dp_size": "",
}


@pytest.mark.parametrize(
    ("changed", "trap"),
    [
        ({}, None),
        ({"mode": "disagg"}, "disaggregated"),
        ({"attention_dp_size": "0"}, "attention_dp 0"),
        ({"tp_size": "16"}, "tp holds tp·ep"),
        ({"tp_size": "64"}, "tp holds tp·ep"),
        ({"attention_dp_size": "2"}, "tp·dp beyond the node"),
        ({"tp_size": "4", "attention_dp_size": "2"}, None),
        ({"system": "gb200", "tp_size": "12"}, "tp is a total"),
        ({"system": "gb200", "tp_size": "16"}, None),
    ],
)
def test_traps_by_hand(changed: dict[str, str], trap: str | None) -> None:
    assert serving_trap({**_PLAIN, **changed}) == trap


def test_errors_are_a_share_of_all_requests() -> None:
    """`n_requests` counts successes only."""
    assert pilot_error_share({"n_errors": "5", "n_requests": "95"}) == 0.05
    assert pilot_error_share({"n_errors": "0", "n_requests": "0"}) == 0.0


@pytest.mark.parametrize(
    ("label", "degrees"),
    [
        ("Tensor Parallelism", (4, 1, 1)),
        ("TP", (4, 1, 1)),
        ("Pipeline Parallelism", (1, 4, 1)),
        ("PP", (1, 4, 1)),
        ("Hybird Tensor (2) and Pipeline (2) Parallelism", (2, 2, 1)),
        ("Hybrid TP = 2 and PP = 2", (2, 2, 1)),
        ("EP", (4, 1, 4)),
        ("Hybrid TP = 2 and EP = 2", (4, 1, 2)),
    ],
)
def test_labels_of_parallelism(label: str, degrees: tuple[float, float, float]) -> None:
    row = {
        "Model": "Qwen/Qwen2-72B", "Hardware": "Nvidia A100 GPU", "Num of Hardware": "4",
        "Parallelism Type": label, "Input Output Length": "128", "Batch Size": "1", "Latency": "2",
    }  # fmt: skip
    found = _parallel(row)
    assert (found.tp, found.pp, found.ep) == degrees
    assert found.targets == {"latency_ms": 2000.0}


def _write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / SERVING).write_bytes(gzip.compress(b"a,b\n1,2\n"))


def test_either_folder_will_do(tmp_path: Path) -> None:
    _write(tmp_path)
    assert list(_read(tmp_path, SERVING)) == [{"a": "1", "b": "2"}]
    nested = tmp_path / "all"
    nested.mkdir()
    _write(nested / "serving-benchmarks")
    assert list(_read(nested, SERVING)) == [{"a": "1", "b": "2"}]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=f"{SERVING} does not exist: set FOUNDRY_BUDSIM_DATA"):
        list(_read(tmp_path, SERVING))
    with pytest.raises(InvalidRequest, match="does not exist"):
        digests(tmp_path)


def test_inferencex_traps_have_their_counts(data: Path) -> None:
    found = Counter(serving_trap(row) for row in _read(data, SERVING))
    assert found == {
        None: 2644,
        "disaggregated": 1533,
        "tp holds tp·ep": 242,
        "tp·dp beyond the node": 99,
        "tp is a total": 53,
        "attention_dp 0": 15,
    }


def _concurrency(row: Mapping[str, str]) -> float:
    """What the row's provenance says; NaN: nothing."""
    found = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
    return float(found[1]) if found else float("nan")


def test_inferencex_batches_are_per_attention_rank(data: Path) -> None:
    """A blank attention_dp is 1, but for 13 rows whose concurrency says that it is tp."""
    kept = [row for row in _read(data, SERVING) if serving_trap(row) is None]
    found: Counter[str] = Counter()
    for row in kept:
        ranks, batch, total = (
            int(row["attention_dp_size"] or 1), float(row["batch_size"]), _concurrency(row),
        )  # fmt: skip
        if np.isnan(total):
            found["unsaid"] += 1
        elif abs(batch * ranks - total) < ranks:
            found["per rank"] += 1
        elif not row["attention_dp_size"] and total == batch * int(row["tp_size"]):
            found["blank is tp"] += 1
        else:
            found["else"] += 1
    assert found == {"per rank": 2617, "blank is tp": 13, "else": 3, "unsaid": 11}


def test_inferencex_rows_are_one_per_configuration(serving: Rows) -> None:
    assert len(serving) == len(set(serving.configuration)) == 1990
    assert set(serving.engine) == {"vllm", "sglang", "tensorrt-llm"}
    assert set(serving.points.pp) == {1.0}
    for values in serving.targets.values():
        assert np.isfinite(values).all()
        assert values.min() > 0


def test_four_bit_on_hopper_is_weight_only(serving: Rows) -> None:
    hopper = np.isin(serving.gpu, ["nvidia-h100-80gb", "nvidia-h200-141gb"])
    four_bit = hopper & (serving.points.wb == 0.56)
    assert four_bit.sum() > 100
    assert set(serving.points.flops[four_bit]) == {989e12}
    eight_bit = hopper & (serving.points.wb == 1.0)
    assert set(serving.points.flops[eight_bit]) == {1978e12}


def test_repeated_measurements_are_their_median(data: Path, serving: Rows) -> None:
    measured = [
        row
        for row in _read(data, SERVING)
        if serving_trap(row) is None and row["model_path"] == "MiniMaxAI/MiniMax-M2.5"
    ]
    names = ("system", "backend", "precision", "isl", "osl", "batch_size", "tp_size")
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in measured:
        values = [row[name] for name in names]
        values += [row["attention_dp_size"] or "1", str(max(int(row["moe_ep_size"] or 1), 1))]
        groups.setdefault(tuple(values), []).append(float(row["silicon_tpot_ms"]))
    mine = serving.model == "MiniMaxAI/MiniMax-M2.5"
    medians = sorted(float(np.median(values)) for values in groups.values())
    assert max(len(values) for values in groups.values()) > 1
    assert sorted(serving.targets["tpot_ms"][mine]) == pytest.approx(medians)


def test_llm_pilot_leaves_the_survivors_of_errors_out(data: Path, pilot: Rows) -> None:
    shares = [pilot_error_share(row) for row in _read(data, PILOT)]
    assert len(shares) == 351
    assert sum(share > 0.05 for share in shares) == 27
    assert len(pilot) == 324
    assert max(shares) == pytest.approx(0.89, abs=0.005)


def test_llm_pilot_uses_dense_peaks_and_its_own_cards(pilot: Rows) -> None:
    peaks = {name: set(pilot.points.flops[pilot.gpu == name]) for name in set(pilot.gpu)}
    assert peaks["nvidia-h100-80gb"] == {989e12}
    assert set(pilot.gpu) == {
        "nvidia-h100-80gb", "nvidia-a100-40gb", "nvidia-v100-16gb", "nvidia-t4-16gb",
    }  # fmt: skip
    assert pilot.targets["ttft_p95_ms"].min() > 0


def test_argonne_uses_engines_that_batch(data: Path, static: Rows) -> None:
    engines = Counter(row["Framework"] for row in _read(data, STATIC))
    assert sum(engines.values()) == 4001
    assert engines["vLLM"] + engines["TensorRT-LLM"] == 2293
    assert engines["llama.cpp"] == 1236
    assert sum(1 for _ in _read(data, PARALLEL)) == 323
    # The two files repeat each other, and themselves.
    assert len(static) == len(set(static.configuration)) == 2288
    assert set(static.points.input == static.points.output) == {True}
    assert set(static.points.pp) == {1.0, 2.0, 4.0}
    assert set(static.points.ep) == {1.0, 2.0, 4.0}


def test_llama_cpp_does_not_batch(data: Path) -> None:
    """The reason to leave it out: 912 of its rows answer a batch one after the other."""
    rows = [row for row in _read(data, STATIC) if row["Framework"] == "llama.cpp"]
    ratios = [
        float(row["Throughput"]) * float(row["Latency"]) / float(row["Input Output Length"])
        for row in rows
    ]
    batches = np.asarray([float(row["Batch Size"]) for row in rows])
    counted = np.asarray(ratios) / (2 * batches)
    assert np.sum(~np.isclose(counted, 1.0, rtol=0.05) & (batches > 1)) >= 900


@pytest.mark.parametrize("name", ["serving", "pilot", "static"])
def test_names_change_no_feature(name: str, request: pytest.FixtureRequest) -> None:
    rows: Rows = request.getfixturevalue(name)
    order = np.random.default_rng(0).permutation(len(rows))
    permuted = replace(
        rows, model=rows.model[order], gpu=rows.gpu[order], engine=rows.engine[order]
    )
    tables = [
        matrix(full(one.points, prior(one.points), np.zeros(len(rows)))) for one in (rows, permuted)
    ]
    assert tables[0].tolist() == tables[1].tolist()
    assert np.isfinite(tables[0]).all()


def test_digests_are_those_of_the_files(data: Path) -> None:
    found = digests(data)
    assert set(found) == {SERVING, PILOT, STATIC, PARALLEL}
    assert all(len(value) == 64 for value in found.values())


def test_every_row_is_read(data: Path) -> None:
    with gzip.open(next(data.rglob(SERVING)), "rt") as stream:
        assert sum(1 for _ in csv.reader(stream)) - 1 == 4586
