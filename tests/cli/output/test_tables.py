"""Tables and records: words stay whole, whatever the width, and a pipe loses nothing."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from foundry.cli.output.cells import tell_moment, write_cell, write_field
from foundry.cli.output.tables import Column, print_columns, print_fields, print_table

JOB_ID = "0198f3c2-a1b2-7000-8000-000000000001"
DIGEST = "ab" * 32
ROW: dict[str, object] = {
    "id": JOB_ID,
    "name": "support-bot",
    "state": "SUCCEEDED",
    "attempt": 12,
    "reason": "its worker was lost and nobody has another one",
    "digest": DIGEST,
}
NAMES = list(ROW)


def terminal(width: int) -> Console:
    return Console(
        file=io.StringIO(), width=width, force_terminal=True, no_color=True, highlight=False
    )


def pipe() -> Console:
    return Console(file=io.StringIO(), width=20, force_terminal=False, highlight=False)


def lines_of(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    plain = console.file.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")
    return plain.splitlines()


def test_on_a_terminal_ids_are_short_and_prose_takes_the_room_that_is_left() -> None:
    console = terminal(80)
    assert print_table(console, [ROW], NAMES) == []
    assert lines_of(console) == [
        "id             name         state      attempt  reason              digest",
        "0198f3c2-a1b2  support-bot  SUCCEEDED       12  its worker was      abababababab",
        "                                                lost and nobody",
        "                                                has another one",
    ]


def test_what_has_no_room_is_left_out_from_the_right_and_named() -> None:
    console = terminal(50)
    assert print_table(console, [ROW], NAMES) == ["reason", "digest"]
    assert lines_of(console)[1] == "0198f3c2-a1b2  support-bot  SUCCEEDED       12"


def test_a_terminal_too_narrow_for_a_table_gets_a_block_for_each_row() -> None:
    console = terminal(24)
    assert print_table(console, [ROW, ROW | {"name": "b"}], NAMES) == []
    lines = lines_of(console)
    assert lines[:4] == [
        f"id       {JOB_ID}",
        "name     support-bot",
        "state    SUCCEEDED",
        "attempt  12",
    ]
    assert f"digest   {DIGEST}" in lines
    assert lines.count("") == 1


def test_a_pipe_gets_every_column_whole_and_a_line_for_each_row() -> None:
    console = pipe()
    rows = [ROW | {"at": "2026-01-02T03:04:05Z", "size_bytes": 1_500_000, "text": "a\n\tb"}]
    assert print_table(console, rows, list(rows[0])) == []
    heading, row = lines_of(console)
    assert heading.split()[:3] == ["id", "name", "state"]
    assert row.split()[0] == JOB_ID
    assert DIGEST in row
    assert row.endswith("2026-01-02T03:04:05Z     1500000  a\\n\\tb")


COLUMNS = [
    Column("gpu", ("nvidia-l4-24gb", "cpu"), keep=9, words=True),
    Column("memory\nGB", ("24", "8"), keep=1),
    Column("$ per\nhour", ("0.7", "0"), keep=5),
]


def test_columns_that_matter_least_are_left_out_first() -> None:
    console = terminal(24)
    assert print_columns(console, COLUMNS) == ["memory GB"]
    assert lines_of(console) == [
        "                $ per",
        "gpu              hour",
        "nvidia-l4-24gb    0.7",
        "cpu                 0",
    ]


def test_a_pipe_gets_a_heading_of_two_lines_on_one() -> None:
    console = pipe()
    assert print_columns(console, COLUMNS) == []
    assert lines_of(console) == [
        "gpu             memory GB  $ per hour",
        "nvidia-l4-24gb         24         0.7",
        "cpu                     8           0",
    ]


def test_a_name_without_room_for_its_number_is_a_block() -> None:
    console = terminal(18)
    assert print_columns(console, COLUMNS[:2]) == []
    assert lines_of(console) == [
        "gpu        nvidia-l4-24gb",
        "memory GB  24",
        "",
        "gpu        cpu",
        "memory GB  8",
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_secret_is_one_word_at_any_width(width: int) -> None:
    secret = "fk_live_" + "x" * 60
    console = terminal(width)
    print_fields(console, {"id": "8f3k", "key": secret})
    assert lines_of(console) == ["id   8f3k", f"key  {secret}"]


def test_a_record_shows_what_is_inside_without_a_language_s_brackets() -> None:
    console = terminal(80)
    record = {
        "id": JOB_ID,
        "spec": {"base": "smol", "config": {"lr": 2e-4, "method": {"kind": "lora"}}},
        "aliases": [],
        "fleet": [{"member": "w0", "round": 3}, {"member": "w1", "round": None}],
        "resumable": True,
    }
    print_fields(console, record)
    assert lines_of(console) == [
        f"id         {JOB_ID}",
        "spec",
        "  base    smol",
        "  config",
        "    lr      0.0002",
        "    method",
        "      kind  lora",
        "aliases    -",
        "fleet      member=w0, round=3",
        "           member=w1, round=-",
        "resumable  yes",
    ]


def test_what_others_wrote_cannot_steer_the_terminal() -> None:
    console = terminal(80)
    print_table(console, [{"name": "a\x1b[2J[bold]b", "x": 1}], ["name", "x"])
    assert lines_of(console)[1] == "a[2J[bold]b  1"


@pytest.mark.parametrize(
    ("ago_s", "told"),
    [
        (0, "0 s ago"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (47 * 3600, "47 h ago"),
        (48 * 3600, "2 days ago"),
        (30 * 86400, "2026-02-01"),
        (-30, "in 30 s"),
        (-90 * 86400, "in 90 days"),
    ],
)
def test_moments_are_told_from_now(ago_s: int, told: str) -> None:
    now = datetime(2026, 3, 3, 12, tzinfo=UTC)
    assert tell_moment(now - timedelta(seconds=ago_s), now) == told


@pytest.mark.parametrize(
    ("name", "value", "cell", "field"),
    [
        (
            "at",
            "2026-01-02T03:04:05.123+01:00",
            "58 min ago",
            "2026-01-02 02:04:05 UTC (58 min ago)",
        ),
        ("size_bytes", 269_060_552, "269.1 MB", "269060552 (269.1 MB)"),
        ("size_bytes", 12, "12 bytes", "12"),
        ("id", JOB_ID, "0198f3c2-a1b2", JOB_ID),
        ("loss", 0.123456789, "0.123457", "0.123457"),
        ("x", None, "-", "-"),
        ("x", {}, "-", "-"),
        ("x", ["a", "b"], "a, b", "a, b"),
        ("x", False, "no", "no"),
    ],
)
def test_a_value_in_a_table_and_on_a_line_of_its_own(
    name: str, value: object, cell: str, field: str
) -> None:
    now = datetime(2026, 1, 2, 3, 2, 35, tzinfo=UTC)
    assert write_cell(value, name, now=now) == cell
    assert write_field(value, name, now=now) == field
