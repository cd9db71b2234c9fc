"""Splits of few rows; what lies in rows that JSON cannot say. No database."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from foundry.catalog.datasets.domain import AddOptions
from foundry.catalog.datasets.preparation import split_position
from foundry.catalog.datasets.shards import canonical
from foundry.errors import InvalidDataset
from tests.catalog.datasets.test_validation import chat, lines, rows, run, split_of


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.999])
def test_two_rows_are_a_dataset_whatever_the_hash(
    tmp_path: Path, seed: int, fraction: float
) -> None:
    options = AddOptions(eval_fraction=fraction, seed=seed)
    prepared = run(lines(rows(2)), tmp_path, options)
    assert (prepared.train_rows, prepared.eval_rows) == (1, 1)
    (held_out,) = split_of(prepared)["eval"]
    # The one that the formula would hold out first.
    first = min(rows(2), key=lambda row: split_position(seed, canonical(row["prompt"])))
    assert held_out == first
    assert run(lines(rows(2)), tmp_path, options, "again").digest == prepared.digest


def test_a_side_is_only_filled_if_the_hash_left_it_empty(tmp_path: Path) -> None:
    few = [row for row in rows(40) if split_position(0, canonical(row["prompt"])) >= 0.25]
    splits = split_of(run(lines(few), tmp_path))
    assert len(splits["eval"]) == 1
    assert sorted(map(canonical, splits["eval"] + splits["train"])) == sorted(map(canonical, few))


def test_the_last_group_stays_for_training(tmp_path: Path) -> None:
    low = [row for row in rows(40) if split_position(0, canonical(row["prompt"])) < 0.5]
    splits = split_of(run(lines(low), tmp_path, AddOptions(eval_fraction=0.5)))
    last = max(low, key=lambda row: split_position(0, canonical(row["prompt"])))
    assert splits["train"] == [last]
    assert len(splits["eval"]) == len(low) - 1


def test_nothing_is_held_out_if_asked(tmp_path: Path) -> None:
    prepared = run(lines(rows(1)), tmp_path, AddOptions(eval_fraction=0))
    assert (prepared.train_rows, prepared.eval_rows) == (1, 0)
    assert split_of(prepared) == {"train": rows(1), "eval": []}


def test_what_cannot_be_split_is_explained(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match=r"only one distinct row.*--eval-fraction 0"):
        run(lines(rows(1) * 3), tmp_path)
    same = [{"prompt": "say", "completion": f"{i}"} for i in range(5)]
    with pytest.raises(InvalidDataset, match=r"all 5 rows ask the same.*--eval-fraction 0"):
        run(lines(same), tmp_path, name="same")
    assert run(lines(same), tmp_path, AddOptions(eval_fraction=0), "held").train_rows == 5


def call(arguments: object) -> dict[str, object]:
    function = {"name": "f", "arguments": arguments}
    asked = {"role": "assistant", "tool_calls": [{"id": "c1", "function": function}]}
    answer = {"role": "tool", "tool_call_id": "c1", "content": "42"}
    end = {"role": "assistant", "content": "done"}
    return chat({"role": "user", "content": "hi"}, asked, answer, end)


WHERE = r"row 21: messages\[1\]\.tool_calls\[0\]\.function\.arguments\.x: "


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (float("nan"), "non_finite"),
        (float("inf"), "non_finite"),
        (datetime(2026, 1, 1, tzinfo=UTC), "wrong_type"),
        (b"\x00", "wrong_type"),
    ],
)
def test_values_of_parquet_that_json_has_not(tmp_path: Path, value: object, code: str) -> None:
    data = [call(None)] * 20 + [call({"x": value})]
    parquet.write_table(pa.Table.from_pylist(data), tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    with pytest.raises(InvalidDataset, match=WHERE + code):
        run(content, tmp_path, AddOptions("t.parquet"))


def _table(path: Path, column: pa.Array) -> bytes:
    prompts = pa.array([f"say {i}" for i in range(len(column))])
    parquet.write_table(pa.table({"prompt": prompts, "completion": column}), path)
    return path.read_bytes()


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    texts = pa.array([b"good"] * 20 + [b"\xff\xfe"]).cast(pa.binary())
    content = _table(tmp_path / "t.parquet", texts.view(pa.string()))
    with pytest.raises(
        InvalidDataset, match=r"1 of 21 rows.*row 21: completion: bad_utf8"
    ) as raised:
        run(content, tmp_path, AddOptions("t.parquet"))
    # No command for text mends what holds none.
    assert "iconv" not in raised.value.message
    tolerant = AddOptions("t.parquet", max_bad_fraction=0.1)
    assert run(content, tmp_path, tolerant, "tolerant").bad_rows == 1


def test_a_time_that_python_cannot_hold(tmp_path: Path) -> None:
    times = pa.array([0] * 20 + [2**62]).cast(pa.timestamp("ms"))
    content = _table(tmp_path / "t.parquet", times)
    with pytest.raises(InvalidDataset, match=r"completion: wrong_type: .* is a datetime") as caught:
        run(content, tmp_path, AddOptions("t.parquet"))
    errors = caught.value.details["errors"]
    assert isinstance(errors, list)
    assert errors[20]["message"] == "a value of it is no JSON value"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ('{"x": 1e999}', WHERE + "non_finite"),
        ('{"x": ' + "[" * 200 + "]" * 200 + "}", "row 21: .*: bad_json: nested deeper than 64"),
    ],
)
def test_values_of_json_that_cannot_be_written_again(
    tmp_path: Path, arguments: str, says: str
) -> None:
    bad = json.dumps(call("HERE")).replace('"HERE"', arguments).encode()
    with pytest.raises(InvalidDataset, match=says):
        run(lines(rows_of_calls(20)) + bad + b"\n", tmp_path)


def rows_of_calls(count: int) -> list[dict[str, object]]:
    return [call({"x": i}) for i in range(count)]


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_line_that_is_too_long_takes_no_other_with_it(tmp_path: Path, over: int) -> None:
    long = b'{"prompt": "p", "completion": "' + b"x" * (8 * 2**20 + over - 34) + b'"}\n'
    assert len(long) == 8 * 2**20 + over
    content = long + lines([{"prompt": "NEXT", "completion": "y"}, *rows(20)]) + b"{oops\n"
    prepared = run(content, tmp_path, AddOptions(max_bad_fraction=0.3))
    splits = split_of(prepared)
    kept = splits["train"] + splits["eval"]
    assert prepared.bad_rows == (2 if over > 0 else 1)
    assert len(kept) == (21 if over > 0 else 22)
    assert {"prompt": "NEXT", "completion": "y"} in kept
    with pytest.raises(InvalidDataset, match="row 23: bad_json"):
        run(content, tmp_path, name="strict")


def test_ids_may_be_anything(tmp_path: Path) -> None:
    data = [{**row, "id": [i, {"a": None}]} for i, row in enumerate(rows(10))]
    assert run(lines(data), tmp_path).bad_rows == 0
    with pytest.raises(InvalidDataset, match="row 11: id: duplicate_id: row 1"):
        run(lines([*data, {**rows(11)[10], "id": [0, {"a": None}]}]), tmp_path, name="twice")
