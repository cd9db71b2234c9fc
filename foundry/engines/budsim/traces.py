"""Request traces: when requests arrive and how many tokens each carries."""

import csv
import gzip
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from foundry.engines.budsim.configuration import Floats, Ints
from foundry.engines.budsim.request import Lengths
from foundry.errors import InvalidRequest
from foundry.validation import describe_os_error

COLUMNS = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")
MAX_REQUESTS = 1_000_000
MAX_LINE_CHARACTERS = 65_536
_MAX_TOKENS = 2**31
_Z95 = 1.6448536269514722  # 95 % of a standard normal variable lie below


@dataclass(frozen=True, slots=True)
class Trace:
    """N requests; arrays are (N,).

    Attributes:
        arrival_s: seconds from the trace's start, non-decreasing.
        prompt_tokens, output_tokens: ≥ 1.

    Raises:
        InvalidRequest: shapes differ or a value is out of range.
    """

    arrival_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints

    def __post_init__(self) -> None:
        shapes = {self.arrival_s.shape, self.prompt_tokens.shape, self.output_tokens.shape}
        if shapes != {(len(self.arrival_s),)}:
            raise InvalidRequest("a trace's three columns must be vectors of one length")
        if not len(self.arrival_s):
            raise InvalidRequest("the trace is empty: give at least one request")
        if not np.isfinite(self.arrival_s).all() or (np.diff(self.arrival_s) < 0).any():
            raise InvalidRequest("arrival times must be finite and sorted")
        if min(self.prompt_tokens.min(), self.output_tokens.min()) < 1:
            raise InvalidRequest("every request needs at least one prompt and one output token")

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def rate(self) -> float:
        """Arrivals/s; inf for a single instant."""
        span = float(self.arrival_s[-1] - self.arrival_s[0])
        return (len(self) - 1) / span if span else math.inf


def read_trace(path: Path) -> Trace:
    """A trace file: `.csv` with a header or `.jsonl`, each also `.gz`.

    Fields: `arrived_at` (seconds), `num_prefill_tokens`, `num_decode_tokens`; others are ignored.
    Rows may come in any order; the first arrival becomes 0 s.

    Raises:
        InvalidRequest: the file cannot be read, or a line is malformed (named), or there are more
            than MAX_REQUESTS.
    """
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    if kind not in (".csv", ".jsonl"):
        raise InvalidRequest(f"{path.name}: a trace is a .csv or .jsonl file, or one of these .gz")
    try:
        with _open(path) as stream:
            lines = _bounded_lines(stream, path.name)
            rows = list(_csv_rows(lines, path.name) if kind == ".csv" else _json_rows(lines))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(f"{path.name} cannot be read: {_reason(error)}") from error
    except _BadLine as error:
        raise InvalidRequest(f"{path.name}, line {error.line}: {error}") from error
    if not rows:
        raise InvalidRequest(f"{path.name} holds no request")
    table = np.asarray(rows)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return Trace(
        arrival_s=table[:, 0] - table[0, 0],
        prompt_tokens=table[:, 1].astype(np.int64),
        output_tokens=table[:, 2].astype(np.int64),
    )


def synthetic_trace(
    requests: int,
    *,
    rate: float,
    prompt: Lengths,
    output: Lengths,
    arrival_scv: float = 1.0,
    seed: int = 0,
) -> Trace:
    """Independent gamma gaps between arrivals and log-normal lengths; the same for the same seed.

    Args:
        requests: 1 to MAX_REQUESTS.
        rate: arrivals/s, > 0.
        arrival_scv: squared coefficient of variation of the gaps, ≥ 0: 0 is a clock, 1 Poisson.

    Raises:
        InvalidRequest: a value is out of range.
    """
    if not 1 <= requests <= MAX_REQUESTS:
        raise InvalidRequest(f"{requests} requests: give 1 to {MAX_REQUESTS}")
    if not 0 < rate < math.inf:
        raise InvalidRequest(f"rate is {rate}: give arrivals per second, above 0")
    if not 0 <= arrival_scv < math.inf:
        raise InvalidRequest(f"arrival_scv is {arrival_scv}: give 0 or more")
    generator = np.random.default_rng(seed)
    if arrival_scv:
        gaps = generator.gamma(1 / arrival_scv, arrival_scv / rate, requests)
    else:
        gaps = np.full(requests, 1 / rate)
    return Trace(
        arrival_s=np.cumsum(gaps) - gaps[0],
        prompt_tokens=_lengths(generator, requests, prompt),
        output_tokens=_lengths(generator, requests, output),
    )


def log_normal(lengths: Lengths) -> tuple[float, float]:
    """(mu, sigma) of the logarithm.

    The mean is met exactly, since load depends on it; the median and the 95th percentile by least
    squares of the logarithms, sigma to 0.001 and at most 3.

    Raises:
        InvalidRequest: a length is below 1 or the percentiles are out of order.
    """
    if not min(lengths.mean, lengths.p50) >= 1 or not lengths.p50 <= lengths.p95 < _MAX_TOKENS:
        raise InvalidRequest(
            f"lengths of {lengths.mean:g} tokens (p50 {lengths.p50:g}, p95 {lengths.p95:g}): give "
            "at least 1 token, and p50 at most p95"
        )
    if not lengths.mean < _MAX_TOKENS:
        raise InvalidRequest(
            f"lengths of {lengths.mean:g} tokens: the mean must stay below {_MAX_TOKENS}"
        )
    sigma = np.linspace(0, 3, 3001)
    mu = math.log(lengths.mean) - sigma**2 / 2
    misses = (mu - math.log(lengths.p50)) ** 2 + (mu + _Z95 * sigma - math.log(lengths.p95)) ** 2
    best = int(misses.argmin())
    return float(mu[best]), float(sigma[best])


def _lengths(generator: np.random.Generator, requests: int, lengths: Lengths) -> Ints:
    drawn = np.rint(generator.lognormal(*log_normal(lengths), requests))
    return np.clip(drawn, 1, _MAX_TOKENS).astype(np.int64)


def _reason(error: Exception) -> str:
    """In plain words; the error's own name parts of a library."""
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8 text"
    if isinstance(error, EOFError):
        return "its compressed data end too early"
    if isinstance(error, OSError) and error.strerror:
        return describe_os_error(error)
    return "its contents are damaged"


class _BadLine(ValueError):
    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _bounded_lines(stream: IO[str], name: str) -> Iterator[str]:
    """Lines with a limit on their length and number, so that no file fills the memory."""
    number = 0
    while line := stream.readline(MAX_LINE_CHARACTERS + 1):
        number += 1
        if len(line) > MAX_LINE_CHARACTERS:
            raise _BadLine(number, f"longer than {MAX_LINE_CHARACTERS} characters")
        if number > MAX_REQUESTS + 1:
            raise InvalidRequest(f"{name} holds more than {MAX_REQUESTS} requests: split it")
        yield line


def _csv_rows(lines: Iterator[str], name: str) -> Iterator[tuple[float, float, float]]:
    reader = csv.DictReader(lines)
    if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
        raise InvalidRequest(f"{name}, line 1: the header lacks {', '.join(missing)}")
    for row in reader:
        yield _row(row, reader.line_num)


def _json_rows(lines: Iterable[str]) -> Iterator[tuple[float, float, float]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _BadLine(number, "not JSON") from error
        if not isinstance(row, dict):
            raise _BadLine(number, "not a JSON object")
        yield _row(row, number)


def _row(row: Mapping[str, object], line: int) -> tuple[float, float, float]:
    arrived, prompt, output = (_number(row.get(column), column, line) for column in COLUMNS)
    for column, tokens in zip(COLUMNS[1:], (prompt, output), strict=True):
        if not (1 <= tokens < _MAX_TOKENS and tokens == int(tokens)):
            raise _BadLine(line, f"{column} is {tokens:g}: give a whole number of at least 1")
    return arrived, prompt, output


def _number(value: object, column: str, line: int) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _BadLine(line, f"{column} is missing or not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise _BadLine(line, f"{column} is not a number") from error
    if not math.isfinite(number):
        raise _BadLine(line, f"{column} is not finite")
    return number
