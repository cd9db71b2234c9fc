"""The demo's dataset is what its maker makes."""

import json
from pathlib import Path

from workflows.demo_data import make

COMMITTED = Path(make.__file__).with_name("support_commands.jsonl")


def test_the_committed_rows_are_reproducible() -> None:
    rows = [json.loads(line) for line in COMMITTED.read_text(encoding="utf-8").splitlines()]
    assert rows == make.rows()
    assert len(rows) == make.NUM_ROWS


def test_no_request_has_two_answers() -> None:
    requests = [row["messages"][1]["content"] for row in make.rows()]  # type: ignore[index]
    assert len(set(requests)) == len(requests)
