"""Every finding names the row, the place and the code; no database."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from foundry.catalog.datasets.domain import AddOptions, Reference, RowError
from foundry.catalog.datasets.preparation import PreparedDataset, prepare, split_position
from foundry.catalog.datasets.reading import read
from foundry.catalog.datasets.shards import canonical, normalise_strings, read_rows
from foundry.catalog.datasets.validation import find_faults
from foundry.errors import InvalidDataset, InvalidRequest

ASK = {"role": "user", "content": "hi"}
TELL = {"role": "assistant", "content": "hello"}
FUNCTION = {"name": "f", "arguments": "{}"}
CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "42"}


def chat(*messages: object) -> dict[str, object]:
    return {"messages": list(messages)}


CASES: list[tuple[dict[str, object], list[tuple[str, str]]]] = [
    (chat(ASK, TELL), []),
    (chat({"role": "system", "content": "be brief"}, ASK, TELL, ASK, TELL), []),
    (chat(ASK, CALL, RESULT, TELL), []),
    (chat(ASK, CALL), []),
    ({}, [("messages", "missing_field")]),
    ({"messages": "x"}, [("messages", "wrong_type")]),
    (chat(), [("messages", "empty_target")]),
    (chat(ASK, 3), [("messages[1]", "wrong_type")]),
    (chat(ASK, {"role": "assistant"}), [("messages[1].content", "missing_field")]),
    (chat({"content": "x"}, TELL), [("messages[0].role", "missing_field")]),
    (chat({"role": "bot", "content": "x"}, TELL), [("messages[0].role", "unknown_role")]),
    (chat(ASK, {**TELL, "weight": 0}), [("messages", "empty_target")]),
    (chat(ASK, {**TELL, "content": "  "}), [("messages", "empty_target")]),
    (chat(TELL), [("messages[0].role", "bad_turn_order")]),
    (chat(ASK, ASK, TELL), [("messages[1].role", "bad_turn_order")]),
    (chat(ASK, TELL, ASK), [("messages[2].role", "bad_turn_order")]),
    (chat(ASK, TELL, {"role": "system", "content": "x"}), [("messages[2].role", "bad_turn_order")]),
    (chat(ASK, RESULT, TELL), [("messages[1].tool_call_id", "dangling_tool_call")]),
    (
        chat(
            ASK,
            {**CALL, "tool_calls": [{"id": i, "function": FUNCTION} for i in ("a", "c1")]},
            RESULT,
            TELL,
        ),
        [("messages[1].tool_calls[0]", "dangling_tool_call")],
    ),
    (chat(ASK, {**CALL, "tool_calls": "x"}), [("messages[1].tool_calls", "wrong_type")]),
    (
        chat(ASK, {**CALL, "tool_calls": [{"id": ["c1"], "function": FUNCTION}]}, RESULT, TELL),
        [("messages[1].tool_calls[0].id", "wrong_type")],
    ),
    (
        chat(ASK, CALL, {**RESULT, "tool_call_id": ["c1"]}, TELL),
        [("messages[2].tool_call_id", "wrong_type")],
    ),
    ({**chat(ASK, TELL), "tools": {}}, [("tools", "wrong_type")]),
]


@pytest.mark.parametrize(("row", "expected"), CASES)
def test_chat_rows(row: dict[str, object], expected: list[tuple[str, str]]) -> None:
    assert [(path, code) for path, code, _ in find_faults(row, "chat")] == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a", "completion": "b"}, []),
        ({"prompt": "a"}, [("completion", "missing_field")]),
        ({"prompt": 1, "completion": "b"}, [("prompt", "wrong_type")]),
        ({"prompt": "a", "completion": ""}, [("completion", "empty_target")]),
    ],
)
def test_pairs(row: dict[str, object], expected: list[tuple[str, str]]) -> None:
    assert [(path, code) for path, code, _ in find_faults(row, "prompt_completion")] == expected


def _errors(content: bytes, tmp_path: Path) -> list[tuple[int, str]]:
    path = tmp_path / "in"
    path.write_bytes(content)
    return [
        (number, row.code) for number, row in read(path, "x.jsonl") if isinstance(row, RowError)
    ]


def test_lines_that_are_no_rows(tmp_path: Path) -> None:
    content = b'{"a": 1}\n\n{bad\n\xff\xfe\n[1]\n{"a": NaN}\n' + b"[" * 100_000 + b"\n{}\n"
    assert _errors(content, tmp_path) == [
        (3, "bad_json"),
        (4, "bad_utf8"),
        (5, "wrong_type"),
        (6, "non_finite"),
        (7, "bad_json"),
    ]


def test_a_line_that_is_no_json_is_told_by_its_place(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b'{"a": 1}\n{"a": oops}\n')
    ((_, row), (_, problem)) = read(tmp_path / "in", "x.jsonl")
    assert row == {"a": 1}
    assert str(problem) == "row 2: bad_json: not valid JSON from column 7 on"


def test_a_line_without_end_is_cut_off(tmp_path: Path) -> None:
    content = b"x" * (20 * 2**20) + b'\n{"a": 1}\n{oops\n'
    assert _errors(content, tmp_path) == [(1, "too_long"), (3, "bad_json")]


def rows(count: int) -> list[dict[str, object]]:
    return [{"prompt": f"say {i}", "completion": f"{i}"} for i in range(count)]


def lines(data: Sequence[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in data).encode()


def run(
    content: bytes, tmp_path: Path, options: AddOptions | None = None, name: str = "out"
) -> PreparedDataset:
    source = tmp_path / f"{name}.in"
    source.write_bytes(content)
    work = tmp_path / name
    work.mkdir()
    return prepare(source, work, options or AddOptions(eval_fraction=0.25))


def split_of(prepared: PreparedDataset) -> dict[str, list[dict[str, object]]]:
    return {file.path.split(".")[0]: list(read_rows(file.local)) for file in prepared.files}


def test_every_format_gives_the_same_version(tmp_path: Path) -> None:
    plain = lines(rows(60))
    table = pa.Table.from_pylist(rows(60))
    parquet.write_table(table, tmp_path / "t.parquet")
    sources = {
        "a.jsonl": plain,
        "a.jsonl.gz": gzip.compress(plain),
        "a.jsonl.zst": zstandard.compress(plain),
        "a.parquet": (tmp_path / "t.parquet").read_bytes(),
    }
    prepared = [
        run(content, tmp_path, AddOptions(filename, eval_fraction=0.25), f"o{i}")
        for i, (filename, content) in enumerate(sources.items())
    ]
    assert len({each.digest for each in prepared}) == 1
    assert prepared[0].train_rows + prepared[0].eval_rows == 60
    assert prepared[0].eval_rows == len(split_of(prepared[0])["eval"])


def test_chat_from_parquet_drops_absent_fields(tmp_path: Path) -> None:
    data = [chat({**ASK, "content": f"q{i}"}, TELL) for i in range(20)]
    data[0] = chat({"role": "user", "content": "x", "name": "bob"}, TELL)
    parquet.write_table(pa.Table.from_pylist(data), tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    prepared = run(content, tmp_path, AddOptions("t.parquet", eval_fraction=0.3))
    assert prepared.kind == "chat"
    together = split_of(prepared)["train"] + split_of(prepared)["eval"]
    assert sorted(map(canonical, together)) == sorted(map(canonical, data))


def test_the_split_follows_its_formula_and_is_stable_under_append(tmp_path: Path) -> None:
    few = split_of(run(lines(rows(100)), tmp_path, name="few"))
    many = split_of(run(lines(rows(400)), tmp_path, name="many"))
    assert [row for row in many["eval"] if row in rows(100)] == few["eval"]
    for row in many["train"]:
        assert split_position(0, canonical(row["prompt"])) >= 0.25
    assert 70 <= len(many["eval"]) <= 130


def test_the_same_prompt_never_crosses_the_split(tmp_path: Path) -> None:
    data = [
        {"prompt": f"say {i}", "completion": f"{i}-{answer}"}
        for i in range(50)
        for answer in range(4)
    ]
    splits = split_of(run(lines(data), tmp_path))
    train, held_out = ({row["prompt"] for row in splits[name]} for name in ("train", "eval"))
    assert train & held_out == set()
    assert len(train) + len(held_out) == 50


def test_duplicates_are_found_after_normalisation(tmp_path: Path) -> None:
    data: list[dict[str, object]] = [*rows(30), {"completion": "1", "prompt": "say 1", "note": "x"}]
    data += [
        {"prompt": "caf\u00e9", "completion": "x"},
        {"prompt": "cafe\u0301", "completion": "x"},
    ]
    prepared = run(lines(data), tmp_path)
    assert prepared.duplicate_rows == 2
    assert prepared.train_rows + prepared.eval_rows == 31
    assert normalise_strings({"e\u0301": ["e\u0301"]}) == {"\u00e9": ["\u00e9"]}


def test_bad_rows_fail_unless_allowed(tmp_path: Path) -> None:
    data: list[dict[str, object]] = [*rows(38), {"prompt": "x"}, chat(ASK, TELL)]
    with pytest.raises(InvalidDataset) as caught:
        run(lines(data), tmp_path, name="strict")
    error = caught.value
    assert error.message.startswith("2 of 40 rows are invalid: row 39: completion: missing_field:")
    assert error.details["counts"] == {"missing_field": 3}
    allowed = AddOptions(eval_fraction=0.25, max_bad_fraction=0.05)
    prepared = run(lines(data), tmp_path, allowed, "lenient")
    assert prepared.bad_rows == 2
    assert prepared.train_rows + prepared.eval_rows == 38


def test_the_report_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset) as caught:
        run(b"{}\n" * 5000, tmp_path)
    errors = caught.value.details["errors"]
    assert isinstance(errors, list)
    assert len(errors) == 1000
    assert caught.value.details["counts"] == {"missing_field": 5000}
    assert "and 4997 more" in caught.value.message


def test_a_repeated_id_is_named(tmp_path: Path) -> None:
    data: list[dict[str, object]] = [{**row, "id": i % 9} for i, row in enumerate(rows(10))]
    with pytest.raises(InvalidDataset, match="row 10: id: duplicate_id: row 1 has the same id"):
        run(lines(data), tmp_path)


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (b"", AddOptions(), "the file has no rows"),
        (b"hello", AddOptions("x.txt"), "is none of"),
        (lines(rows(5)), AddOptions("x.txt"), "holds JSON lines: mv -i x.txt x.jsonl"),
        (b"nonsense", AddOptions("x.parquet"), "^not a readable Parquet file: write it again$"),
        (
            b"nonsense",
            AddOptions("x.jsonl.gz"),
            "^the compressed file is damaged: compress it again$",
        ),
        (
            b"nonsense",
            AddOptions("x.jsonl.zst"),
            "^the compressed file is damaged: compress it again$",
        ),
        (gzip.compress(lines(rows(50)))[:-20], AddOptions("x.jsonl.gz"), "is damaged"),
    ],
)
def test_files_that_cannot_be_used(
    tmp_path: Path, content: bytes, options: AddOptions, says: str
) -> None:
    with pytest.raises(InvalidDataset, match=says):
        run(content, tmp_path, options)


def test_options_and_references_are_checked() -> None:
    for bad in (1.0, -0.1, float("nan")):
        with pytest.raises(InvalidRequest):
            AddOptions(eval_fraction=bad)
    with pytest.raises(InvalidRequest):
        AddOptions(max_bad_fraction=1.0)
    assert Reference.parse("support@12") == Reference("support", 12)
    assert Reference.parse("support") == Reference.parse("support@latest") == Reference("support")
    assert str(Reference.parse("support@12")) == "support@12"
    assert str(Reference.parse("support@latest")) == "support"
    for text in ("", "Support", "a@", "a@0", "a@x", "a@1.0", "a@99999999999", "../a"):
        with pytest.raises(InvalidRequest):
            Reference.parse(text)
