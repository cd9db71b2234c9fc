"""From an uploaded file to two shards: validate, deduplicate, split. One pass, bounded memory."""

import hashlib
import json
import struct
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from foundry.catalog.datasets.domain import EVAL_FILE, TRAIN_FILE, AddOptions, Kind, RowError
from foundry.catalog.datasets.reading import read
from foundry.catalog.datasets.shards import ShardWriter, canonical, normalised
from foundry.catalog.datasets.validation import cleaned, findings, kind_of, prompt_part
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
class Prepared:
    """A dataset version before it has a number.

    Attributes:
        digest: sha256 of the manifest: files, counts, split; equal for equal input.
    """

    kind: Kind
    digest: str
    files: tuple[PreparedFile, ...]
    train_rows: int
    eval_rows: int
    duplicate_rows: int
    bad_rows: int


@dataclass(slots=True)
class _Report:
    """Counts of everything, the first thousand errors in full."""

    rows: int = 0
    bad_rows: int = 0
    duplicates: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    errors: list[RowError] = field(default_factory=list)

    def add(self, errors: list[RowError]) -> None:
        self.bad_rows += 1
        self.counts.update(error.code for error in errors)
        self.errors.extend(errors[: _KEPT_ERRORS - len(self.errors)])


def prepare(source: Path, work_dir: Path, options: AddOptions) -> Prepared:
    """Write the shards of `source` into `work_dir`.

    Raises:
        InvalidDataset: rows are invalid (details list them), or a split would be empty.
        DiskFull: no room for the shards.
    """
    report = _Report()
    try:
        with ExitStack() as stack:
            train = stack.enter_context(ShardWriter(work_dir / TRAIN_FILE))
            held_out = stack.enter_context(ShardWriter(work_dir / EVAL_FILE))
            kind = _distribute(source, options, report, train, held_out)
    except OSError as error:
        raise storage_error(error, work_dir) from error
    _check(report, options, train.rows, held_out.rows)
    assert kind is not None
    files = tuple(_described(work_dir / name) for name in (EVAL_FILE, TRAIN_FILE))
    manifest = {
        "format": _FORMAT,
        "kind": kind,
        "files": [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in files],
        "train_rows": train.rows,
        "eval_rows": held_out.rows,
        "eval_fraction": options.eval_fraction,
        "seed": options.seed,
    }
    return Prepared(
        kind=kind,
        digest=hashlib.sha256(canonical(manifest)).hexdigest(),
        files=files,
        train_rows=train.rows,
        eval_rows=held_out.rows,
        duplicate_rows=report.duplicates,
        bad_rows=report.bad_rows,
    )


def _distribute(
    source: Path,
    options: AddOptions,
    report: _Report,
    train: ShardWriter,
    held_out: ShardWriter,
) -> Kind | None:
    kind: Kind | None = None
    # 16 bytes per row: a collision among 2^32 rows is less likely than a bit flip.
    seen: set[bytes] = set()
    ids: dict[str, int] = {}
    for number, row in read(source, options.filename):
        report.rows += 1
        if isinstance(row, RowError):
            report.add([row])
            continue
        kind = kind or kind_of(row)
        if errors := _errors(number, row, kind, ids):
            report.add(errors)
            continue
        assert kind is not None
        kept = cleaned(row, kind)
        mark = hashlib.sha256(canonical(normalised(kept))).digest()[:16]
        if mark in seen:
            report.duplicates += 1
            continue
        seen.add(mark)
        key = canonical(normalised(prompt_part(kept, kind)))
        in_eval = split_position(options.seed, key) < options.eval_fraction
        (held_out if in_eval else train).write(canonical(kept))
    return kind


def _errors(
    number: int, row: dict[str, object], kind: Kind | None, ids: dict[str, int]
) -> list[RowError]:
    if kind is None:
        message = "expected messages (chat), or prompt and completion"
        return [RowError(number, "", "missing_field", message)]
    errors = [RowError(number, *finding) for finding in findings(row, kind)]
    if (identifier := row.get("id")) is not None:
        first = ids.setdefault(json.dumps(identifier, default=str), number)
        if first != number:
            message = f"row {first} has the same id"
            errors.append(RowError(number, "id", "duplicate_id", message))
    return errors


def split_position(seed: int, key: bytes) -> float:
    """Where a group lies in [0, 1): stable when rows are added."""
    digest = hashlib.sha256(struct.pack(">Q", seed) + key).digest()
    return float(int.from_bytes(digest[:8], "big") / 2**64)


def _check(report: _Report, options: AddOptions, train_rows: int, eval_rows: int) -> None:
    if report.rows == 0:
        raise InvalidDataset("the file has no rows")
    if report.bad_rows > options.max_bad_fraction * report.rows:
        raise _invalid(report)
    if train_rows == 0 or eval_rows == 0:
        empty = "train" if train_rows == 0 else "eval"
        raise InvalidDataset(
            f"the {empty} split is empty: {train_rows + eval_rows} distinct rows with "
            f"eval_fraction {options.eval_fraction} left it without one; add rows, change "
            "eval_fraction or choose another seed",
            train_rows=train_rows,
            eval_rows=eval_rows,
        )


def _invalid(report: _Report) -> InvalidDataset:
    shown = "; ".join(str(error) for error in report.errors[:_SHOWN_ERRORS])
    more = sum(report.counts.values()) - min(len(report.errors), _SHOWN_ERRORS)
    tail = f"; and {more} more" if more > 0 else ""
    return InvalidDataset(
        f"{report.bad_rows} of {report.rows} rows are invalid: {shown}{tail}",
        rows=report.rows,
        bad_rows=report.bad_rows,
        counts=dict(report.counts),
        errors=[asdict(error) for error in report.errors],
    )


def _described(local: Path) -> PreparedFile:
    digest = hashlib.sha256()
    with local.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return PreparedFile(local.name, local, digest.hexdigest(), local.stat().st_size)
