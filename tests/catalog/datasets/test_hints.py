"""Files of other formats: what is said of them makes datasets of them when pasted into a shell."""

import csv
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from foundry.catalog.datasets.domain import AddOptions
from foundry.catalog.datasets.hints import explain_directory, explain_file, explain_first_row
from foundry.catalog.datasets.preparation import prepare
from foundry.catalog.datasets.shards import read_rows
from foundry.errors import InvalidDataset

ALPACA: list[dict[str, object]] = [
    {"instruction": f"say {i}", "input": "it's" if i else "", "output": f"{i}"} for i in range(4)
]
PAIRS = [{"prompt": f"say {i}" + ("\n\nit's" if i else ""), "completion": f"{i}"} for i in range(4)]


def as_chats(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """What was asked and answered, as a chat model is asked."""
    return [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in rows
    ]


SHARED: list[dict[str, object]] = [
    {"conversations": [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": f"a{i}"}]}
    for i in range(4)
]
CHATS = as_chats([{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(4)])
ASKED = [{"prompt": f'q "{i}"\nx', "completion": f"a,{i} é"} for i in range(4)]


def json_lines(rows: Sequence[Mapping[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(header: list[str], delimiter: str = ",", encoding: str = "utf-8-sig") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(header)
    writer.writerows([row["prompt"], row["completion"]] for row in ASKED)
    return text.getvalue().encode(encoding)


def packed_table(rows: Sequence[Mapping[str, object]]) -> bytes:
    stream = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def latin_lines() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ASKED).encode("cp1252")


FORMATS: list[tuple[str, Callable[[], bytes], object]] = [
    ("alpaca.jsonl", lambda: json_lines(ALPACA), as_chats(PAIRS)),
    ("alpaca.json", lambda: json.dumps(ALPACA).encode(), as_chats(PAIRS)),
    ("it's pretty.json", lambda: json.dumps(ALPACA, indent=2).encode(), as_chats(PAIRS)),
    ("alpaca.jsonl.gz", lambda: gzip.compress(json_lines(ALPACA)), as_chats(PAIRS)),
    ("share.jsonl", lambda: b"\xef\xbb\xbf" + json_lines(SHARED), CHATS),
    ("share.jsonl.gz", lambda: gzip.compress(json.dumps(SHARED).encode()), CHATS),
    ("array.jsonl", lambda: json.dumps(PAIRS).encode(), PAIRS),
    ("openai.jsonl", lambda: json_lines([{"conversations": c["messages"]} for c in CHATS]), CHATS),
    ("qa.csv", lambda: table(["question", "answer"]), as_chats(ASKED)),
    ("odd.tsv", lambda: table(["it's A", "ü"], "\t"), as_chats(ASKED)),
    ("excel.csv", lambda: table(["prompt", "completion"], ";"), as_chats(ASKED)),
    ("unicode.csv", lambda: table(["Prompt", "Response"], "\t", "utf-16"), as_chats(ASKED)),
    ("latin.csv", lambda: table(["prompt", "completion"], ",", "cp1252"), as_chats(ASKED)),
    ("latin.jsonl", latin_lines, ASKED),
    ("utf16.jsonl", lambda: json_lines(ASKED).decode().encode("utf-16"), ASKED),
    ("lines.json", lambda: json_lines(ASKED), ASKED),
    ("lines.ndjson", lambda: json_lines(ASKED), ASKED),
    ("packed.jsonl", lambda: gzip.compress(json_lines(ASKED)), ASKED),
    ("plain.jsonl.gz", lambda: json_lines(ASKED), ASKED),
    ("pq.jsonl", lambda: packed_table(ASKED), ASKED),
    ("qa.csv.gz", lambda: gzip.compress(table(["question", "answer"])), as_chats(ASKED)),
    ("alpaca.parquet", lambda: packed_table(ALPACA), as_chats(PAIRS)),
]


def advice(path: Path, work_dir: Path, shown: str) -> str | None:
    """What is said before the file is sent, else when it is refused; None: it is a dataset."""
    if said := explain_file(path, shown) or explain_first_row(path, shown):
        return said
    try:
        prepare(path, work_dir, AddOptions(shown))
    except InvalidDataset as error:
        return error.message
    return None


def paste(command: str, folder: Path) -> None:
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", "-c", command], cwd=folder, check=True, env={"PATH": tools}, timeout=60)


@pytest.mark.parametrize(("name", "make", "expected"), FORMATS, ids=[f[0] for f in FORMATS])
def test_the_advice_works_when_pasted(
    tmp_path: Path, name: str, make: Callable[[], bytes], expected: object
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    path = files / name
    path.write_bytes(make())
    # An unpacked table needs a second hint.
    for turn in range(3):
        (work := tmp_path / f"work{turn}").mkdir()
        if (said := advice(path, work, path.name)) is None:
            rows = [row for shard in sorted(work.iterdir()) for row in read_rows(shard)]
            assert isinstance(expected, list)
            assert sorted(map(json.dumps, rows)) == sorted(
                json.dumps(row, sort_keys=True) for row in expected
            )
            assert turn > 0
            return
        command = re.search(r"(?:python3 -c|gzip -d|iconv -f|mv ).*", said)
        assert command is not None, said
        before = set(files.iterdir())
        paste(command[0], files)
        (path,) = set(files.iterdir()) - before
    pytest.fail(f"{path.name} is no dataset yet")


def test_json_over_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(json.dumps(row, indent=2) for row in ASKED))
    said = explain_file(path, "x.jsonl")
    assert said == "x.jsonl spreads its JSON over several lines: jq -c . < x.jsonl > x.fixed.jsonl"
    if shutil.which("jq"):
        paste(said.partition(": ")[2], tmp_path)
        assert (tmp_path / "x.fixed.jsonl").read_bytes().count(b"\n") == 4


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"hello\nworld\n", "printf '%s\\n' '{\"messages\""),
        ("a.xlsx", b"PK\x03\x04", "an archive or a spreadsheet"),
        ("a.csv", b"text\nhello\n", "a dataset needs what is asked and what is answered"),
        ("a", b"", "is none of .jsonl, .jsonl.gz, .jsonl.zst, .parquet"),
    ],
)
def test_what_is_no_dataset(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert says in str(explain_file(path, str(path)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        json_lines(PAIRS),
        json_lines(CHATS),
        b"[1]\n",
        b'{"unknown": 1}\n',
        b"\x00" * 100,
        b"[" * 70_000,
        b'{"conversations": [7]}\n',
        b'{"conversations": []}\n',
    ],
)
def test_nothing_is_said_of_what_is_not_known(tmp_path: Path, content: bytes) -> None:
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content)[:-4] if name.endswith("gz") else content)
        if name == "a.jsonl" or not content.startswith((b"{", b"[")):
            assert explain_file(path, name) is None
        assert explain_first_row(path, name) is None


def test_a_directory_says_which_file(tmp_path: Path) -> None:
    assert "no file in it ends in .jsonl" in explain_directory(tmp_path)
    for name in ("a b.jsonl", "c.jsonl", "d.csv"):
        (tmp_path / name).write_text('{"prompt": "p", "completion": "c"}')
    said = explain_directory(tmp_path)
    assert f"one file, like '{tmp_path}/a b.jsonl'" in said
    paste(said.partition("its files: ")[2], tmp_path)
    assert (tmp_path / "all.jsonl").read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("suffix", ["gz", "zst"])
@pytest.mark.parametrize("at", [2, 12, 40])
def test_a_damaged_packed_file_is_said_to_be_damaged(tmp_path: Path, suffix: str, at: int) -> None:
    text = b"".join(json.dumps(row).encode() + b"\n" for row in PAIRS) * 200
    packed = bytearray(gzip.compress(text) if suffix == "gz" else zstandard.compress(text))
    packed[at : at + 20] = bytes(byte ^ 0xFF for byte in packed[at : at + 20])
    path = tmp_path / f"rows.jsonl.{suffix}"
    path.write_bytes(packed)
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidDataset):
        prepare(path, tmp_path / "out", AddOptions())
