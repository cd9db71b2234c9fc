"""From an uploaded file to two shards: validate, deduplicate, split. One pass, bounded memory.

Rows are split by the hash of what they ask. Where that leaves a side without rows, a second pass
over the shards moves one group.
"""

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from foundry.catalog.datasets.domain import EVAL_FILE, TRAIN_FILE, AddOptions, Kind, RowError
from foundry.catalog.datasets.hints import EXAMPLE, explain_encoding, explain_row
from foundry.catalog.datasets.reading import read
from foundry.catalog.datasets.shards import (
    ShardWriter,
    canonical,
    encode_row,
    normalise_strings,
    read_rows,
)
from foundry.catalog.datasets.validation import (
    clean_row,
    detect_kind,
    find_faults,
    find_foreign_values,
    select_prompt,
)
from foundry.engines.training.messages.shape import list_uses
from foundry.enumeration import name_first
from foundry.errors import InvalidDataset
from foundry.infra.directory_store import storage_error

_KEPT_ERRORS = 1000
_SHOWN_ERRORS = 3
_FORMAT = 1
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class PreparedFile:
    path: str
    local: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class PreparedDataset:
    """A dataset version before it has a number.

    Attributes:
        digest: sha256 of the manifest: files, counts, split; equal for equal input.
        uses: what rows have beside text, such as tools; a base's chat template must read it.
    """

    kind: Kind
    digest: str
    files: tuple[PreparedFile, ...]
    train_rows: int
    eval_rows: int
    duplicate_rows: int
    bad_rows: int
    uses: tuple[str, ...] = ()


@dataclass(slots=True)
class _Report:
    """Counts of everything, the first thousand errors in full.

    Attributes:
        first, last: the lowest and the highest position of a group; equal: there is one group.
        hint: how rows of another format become ours.
    """

    rows: int = 0
    bad_rows: int = 0
    duplicates: int = 0
    train_rows: int = 0
    eval_rows: int = 0
    first: float = 1.0
    last: float = 0.0
    hint: str | None = None
    counts: Counter[str] = field(default_factory=Counter)
    uses: set[str] = field(default_factory=set)
    errors: list[RowError] = field(default_factory=list)

    def add(self, errors: list[RowError]) -> None:
        self.bad_rows += 1
        self.counts.update(error.code for error in errors)
        self.errors.extend(errors[: _KEPT_ERRORS - len(self.errors)])

    def widen(self, position: float) -> None:
        self.first = min(self.first, position)
        self.last = max(self.last, position)


def prepare(source: Path, work_dir: Path, options: AddOptions) -> PreparedDataset:
    """Write the shards of `source` into `work_dir`.

    Raises:
        InvalidDataset: rows are invalid (details list them), or nothing can be held out.
        DiskFull: no room for the shards.
    """
    report = _Report()
    try:
        kind = _distribute_rows(source, work_dir, options, report)
        _check_report(report, options)
        if options.eval_fraction > 0 and 0 in (report.train_rows, report.eval_rows):
            assert kind is not None
            _split_again(work_dir, options.seed, kind, report)
    except OSError as error:
        raise storage_error(error, work_dir) from error
    assert kind is not None
    files = tuple(_describe_file(work_dir / name) for name in (EVAL_FILE, TRAIN_FILE))
    manifest = {
        "format": _FORMAT,
        "kind": kind,
        "files": [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in files],
        "train_rows": report.train_rows,
        "eval_rows": report.eval_rows,
        "eval_fraction": options.eval_fraction,
        "seed": options.seed,
    }
    return PreparedDataset(
        kind=kind,
        digest=hashlib.sha256(canonical(manifest)).hexdigest(),
        files=files,
        train_rows=report.train_rows,
        eval_rows=report.eval_rows,
        duplicate_rows=report.duplicates,
        bad_rows=report.bad_rows,
        uses=tuple(sorted(report.uses)),
    )


def _distribute_rows(
    source: Path, work_dir: Path, options: AddOptions, report: _Report
) -> Kind | None:
    kind: Kind | None = None
    # 16 bytes per row: a collision among 2^32 rows is less likely than a bit flip.
    seen: set[bytes] = set()
    ids: dict[str, int] = {}
    with _open_shards(work_dir) as (train, held_out):
        for number, row in read(source, options.filename):
            report.rows += 1
            if isinstance(row, RowError):
                report.add([row])
                if row.code == "bad_utf8":
                    report.hint = report.hint or explain_encoding(options.filename)
                continue
            kind = kind or detect_kind(row)
            if errors := _find_errors(number, row, kind, ids):
                report.add(errors)
                report.hint = report.hint or explain_row(row, options.filename)
                continue
            assert kind is not None
            kept = clean_row(row, kind)
            mark = hashlib.sha256(canonical(normalise_strings(kept))).digest()[:16]
            if mark in seen:
                report.duplicates += 1
                continue
            seen.add(mark)
            report.uses |= list_uses(kept)
            position = _compute_position(options.seed, kept, kind)
            report.widen(position)
            shard = held_out if position < options.eval_fraction else train
            shard.write(encode_row(kept))
    report.train_rows, report.eval_rows = train.rows, held_out.rows
    return kind


@contextmanager
def _open_shards(directory: Path) -> Iterator[tuple[ShardWriter, ShardWriter]]:
    with (
        ShardWriter(directory / TRAIN_FILE) as train,
        ShardWriter(directory / EVAL_FILE) as held_out,
    ):
        yield train, held_out


def _split_again(work_dir: Path, seed: int, kind: Kind, report: _Report) -> None:
    """Hold one group out where the hash left a side empty: few prompts, or an unlucky seed.

    It is the group that the formula would hold out first, or keep for training last. Rows that are
    added later may return it to the other side.
    """
    first, last = report.first, report.last
    train_was_empty = report.train_rows == 0
    whole = work_dir / "whole"
    (work_dir / (EVAL_FILE if train_was_empty else TRAIN_FILE)).rename(whole)
    for name in (TRAIN_FILE, EVAL_FILE):
        (work_dir / name).unlink(missing_ok=True)
    with _open_shards(work_dir) as (train, held_out):
        for row in read_rows(whole):
            position = _compute_position(seed, row, kind)
            in_eval = position < last if train_was_empty else position <= first
            (held_out if in_eval else train).write(encode_row(row))
    whole.unlink()
    report.train_rows, report.eval_rows = train.rows, held_out.rows


def _find_errors(
    number: int, row: dict[str, object], kind: Kind | None, ids: dict[str, int]
) -> list[RowError]:
    if kind is None:
        message = "expected messages (chat), or prompt and completion"
        return [RowError(number, "", "missing_field", message)]
    errors = [RowError(number, *finding) for finding in find_faults(row, kind)]
    if not errors:
        values = find_foreign_values(clean_row(row, kind))
        errors = [RowError(number, *finding) for finding in values]
    if (identifier := row.get("id")) is not None:
        errors.extend(_check_identifier(number, identifier, ids))
    return errors


def _check_identifier(number: int, identifier: object, ids: dict[str, int]) -> list[RowError]:
    try:
        first = ids.setdefault(json.dumps(identifier, default=str), number)
    except RecursionError:
        return [RowError(number, "id", "bad_json", "nested too deeply")]
    if first == number:
        return []
    return [RowError(number, "id", "duplicate_id", f"row {first} has the same id")]


def _compute_position(seed: int, row: dict[str, object], kind: Kind) -> float:
    return split_position(seed, canonical(normalise_strings(select_prompt(row, kind))))


def split_position(seed: int, key: bytes) -> float:
    """Where a group lies in [0, 1): stable when rows are added."""
    digest = hashlib.sha256(struct.pack(">Q", seed) + key).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64)


def _check_report(report: _Report, options: AddOptions) -> None:
    if report.rows == 0:
        raise InvalidDataset(f"the file has no rows: write one JSON object a line, like {EXAMPLE}")
    if report.bad_rows > options.max_bad_fraction * report.rows:
        raise _make_invalid_error(report)
    if options.eval_fraction == 0 or report.first != report.last:
        return
    rows = report.train_rows + report.eval_rows
    instead = "add others, or hold nothing out with --eval-fraction 0 (eval_fraction=0)"
    if rows == 1:
        said = f"there is only one distinct row, so none can be held out: {instead}"
    else:
        said = (
            f"all {rows} rows ask the same, and rows that ask the same stay on one side of the "
            f"split, so none can be held out: {instead}"
        )
    raise InvalidDataset(said, train_rows=report.train_rows, eval_rows=report.eval_rows)


def _make_invalid_error(report: _Report) -> InvalidDataset:
    shown = name_first(
        map(str, report.errors), _SHOWN_ERRORS, between="; ", total=sum(report.counts.values())
    )
    hint = f". {report.hint[:1].upper()}{report.hint[1:]}" if report.hint else ""
    return InvalidDataset(
        f"{report.bad_rows} of {report.rows} rows are invalid: {shown}{hint}",
        rows=report.rows,
        bad_rows=report.bad_rows,
        counts=dict(report.counts),
        errors=[asdict(error) for error in report.errors],
    )


def _describe_file(local: Path) -> PreparedFile:
    digest = hashlib.sha256()
    with local.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return PreparedFile(local.name, local, digest.hexdigest(), local.stat().st_size)
