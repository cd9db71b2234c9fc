import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from foundry.engines.budsim.request import Lengths
from foundry.engines.budsim.traces import Trace, log_normal, read_trace, synthetic_trace
from foundry.errors import InvalidRequest

_HEADER = "arrived_at,num_prefill_tokens,num_decode_tokens\n"


def _file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def _columns(trace: Trace) -> tuple[list[float], list[int], list[int]]:
    return (
        trace.arrival_s.tolist(),
        trace.prompt_tokens.tolist(),
        trace.output_tokens.tolist(),
    )


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_is_sorted_and_starts_at_zero(tmp_path: Path, name: str) -> None:
    path = _file(tmp_path, name, _HEADER + "12.5,7,2\n10,5,1\n10,6,3\n")
    assert _columns(read_trace(path)) == ([0.0, 0.0, 2.5], [5, 6, 7], [1, 3, 2])


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_ignore_other_fields(tmp_path: Path, name: str) -> None:
    rows = [
        {"arrived_at": at, "num_prefill_tokens": 3, "num_decode_tokens": 4, "user": "u"}
        for at in (0, 0.25)
    ]
    path = _file(tmp_path, name, "\n\n".join(json.dumps(row) for row in rows))
    assert _columns(read_trace(path)) == ([0.0, 0.25], [3, 3], [4, 4])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,2", "line 3: num_decode_tokens is missing"),
        ("1,x,2", "line 3: num_prefill_tokens is not a number"),
        ("1,2.5,2", "line 3: num_prefill_tokens is 2.5: give a whole number"),
        ("1,2,0", "line 3: num_decode_tokens is 0"),
        ("1,1e300,2", "line 3: num_prefill_tokens is 1e\\+300"),
        ("nan,2,2", "line 3: arrived_at is not finite"),
    ],
)
def test_bad_csv_lines_are_named(tmp_path: Path, row: str, message: str) -> None:
    path = _file(tmp_path, "bad.csv", _HEADER + "0,1,1\n" + row + "\n")
    with pytest.raises(InvalidRequest, match=f"bad.csv, {message}"):
        read_trace(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[1, 2, 3]", "line 1: not a JSON object"),
        ('{"arrived_at": true}', "line 1: arrived_at is missing or not a number"),
        ('{"arrived_at": 1, "num_prefill_tokens": null}', "line 1: num_prefill_tokens is missing"),
        ("[" * 60_000, "line 1: not JSON"),
        (" " * 70_000, "line 1: longer than 65536 characters"),
        ("\n\n", "holds no request"),
    ],
)
def test_bad_json_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_trace(_file(tmp_path, "bad.jsonl", line))


def test_files_that_are_no_trace(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"line 1: the header lacks num_prefill_tokens, num_d"):
        read_trace(_file(tmp_path, "a.csv", "arrived_at,tokens\n1,2\n"))
    with pytest.raises(InvalidRequest, match=r"is a \.csv or \.jsonl file"):
        read_trace(_file(tmp_path, "a.txt", "1 2 3"))
    with pytest.raises(
        InvalidRequest, match=r"absent\.csv cannot be read: No such file or directory$"
    ):
        read_trace(tmp_path / "absent.csv")
    torn = _file(tmp_path, "a.csv.gz", _HEADER + "0,1,1\n" * 999)
    torn.write_bytes(torn.read_bytes()[:-9])
    with pytest.raises(InvalidRequest, match=r"cannot be read: its compressed data end too early$"):
        read_trace(torn)
    torn.write_bytes(b"no gzip")
    with pytest.raises(InvalidRequest, match=r"a\.csv\.gz cannot be read: its contents are damag"):
        read_trace(torn)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match=r"b\.csv cannot be read: it is no UTF-8 text$"):
        read_trace(tmp_path / "b.csv")


def test_too_many_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foundry.engines.budsim.traces.MAX_REQUESTS", 3)
    assert len(read_trace(_file(tmp_path, "three.csv", _HEADER + "0,1,1\n" * 3))) == 3
    with pytest.raises(InvalidRequest, match="more than 3 requests"):
        read_trace(_file(tmp_path, "four.csv", _HEADER + "0,1,1\n" * 4))


@pytest.mark.parametrize(
    ("arrivals", "prompts", "outputs", "message"),
    [
        ([], [], [], "empty"),
        ([0.0, 1.0], [1], [1], "one length"),
        ([1.0, 0.0], [1, 1], [1, 1], "sorted"),
        ([0.0, math.inf], [1, 1], [1, 1], "finite"),
        ([0.0], [0], [1], "at least one prompt"),
    ],
)
def test_traces_are_checked(
    arrivals: list[float], prompts: list[int], outputs: list[int], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Trace(np.array(arrivals), np.array(prompts, int), np.array(outputs, int))


@pytest.mark.parametrize("scv", [0.0, 0.25, 1.0, 9.0])
def test_synthetic_arrivals_have_their_rate_and_variation(scv: float) -> None:
    trace = synthetic_trace(
        200_000, rate=4.0, prompt=Lengths.of(10), output=Lengths.of(10), arrival_scv=scv, seed=3
    )
    gaps = np.diff(trace.arrival_s)
    assert trace.rate == pytest.approx(4.0, rel=0.02)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(scv, rel=0.05, abs=1e-9)


def test_synthetic_lengths_follow_their_distribution() -> None:
    exact = Lengths(mean=1000 * math.exp(0.32), p50=1000, p95=1000 * math.exp(1.6448536 * 0.8))
    assert log_normal(exact) == pytest.approx((math.log(1000), 0.8), abs=1e-3)
    trace = synthetic_trace(200_000, rate=1, prompt=exact, output=Lengths.of(129), seed=5)
    assert trace.prompt_tokens.mean() == pytest.approx(exact.mean, rel=0.01)
    assert np.median(trace.prompt_tokens) == pytest.approx(exact.p50, rel=0.01)
    assert np.percentile(trace.prompt_tokens, 95) == pytest.approx(exact.p95, rel=0.02)
    assert set(trace.output_tokens.tolist()) == {129}


def test_a_contradictory_distribution_keeps_its_mean() -> None:
    measured = Lengths(mean=1155, p50=1020, p95=4083)
    mu, sigma = log_normal(measured)
    assert math.exp(mu + sigma**2 / 2) == pytest.approx(1155, rel=1e-12)
    assert 0.7 < sigma < 0.95


def test_the_seed_decides() -> None:
    first, again, other = (
        synthetic_trace(50, rate=2, prompt=Lengths(9, 8, 20), output=Lengths.of(5), seed=seed)
        for seed in (1, 1, 2)
    )
    assert _columns(first) == _columns(again)
    assert _columns(first) != _columns(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate is 0.0"),
        ({"rate": math.nan}, "rate is nan"),
        ({"arrival_scv": -1.0}, "arrival_scv is -1.0"),
        ({"prompt": Lengths(5, 9, 3)}, "p50 at most p95"),
        ({"prompt": Lengths(0.5, 1, 3)}, "at least 1 token"),
        ({"prompt": Lengths(math.nan, 1, 3)}, "at least 1 token"),
        ({"output": Lengths(math.inf, 1, 3)}, "the mean must stay below"),
        ({"requests": 0}, "0 requests"),
    ],
)
def test_impossible_synthetic_traces(options: dict[str, float], message: str) -> None:
    arguments = {"requests": 5, "rate": 1.0, "prompt": Lengths.of(5), "output": Lengths.of(5)}
    with pytest.raises(InvalidRequest, match=message):
        synthetic_trace(**{**arguments, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "requests", "rate", "prompt_p50", "output_p50", "longest"),
    [("code", 8_819, 2.57, 1_469, 13, 7_437), ("conv", 19_366, 5.53, 1_020, 129, 14_050)],
)
def test_the_measured_traces(
    traces: Path,
    name: str,
    requests: int,
    rate: float,
    prompt_p50: int,
    output_p50: int,
    longest: int,
) -> None:
    trace = read_trace(traces / f"splitwise_{name}.csv.gz")
    assert len(trace) == requests
    assert trace.rate == pytest.approx(rate, abs=0.005)
    assert np.median(trace.prompt_tokens) == prompt_p50
    assert np.median(trace.output_tokens) == output_p50
    assert trace.prompt_tokens.max() == longest
