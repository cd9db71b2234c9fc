"""`foundry budsim catalogue`, `prices` and `probe`."""

import json

import pytest

from foundry.cli.main import run
from tests.cli.conftest import Server
from tests.sdk.answers import AT

Captured = pytest.CaptureFixture[str]


def test_prices_are_set(server: type[Server], capsys: Captured) -> None:
    answer = {"version": 3, "prices": {"a": 2.5}, "created_by": "ada", "created_at": AT}
    server.answers["/budsim/prices"] = (200, answer)
    assert run(["budsim", "prices", "a=2.5", "b=", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == answer
    assert server.asked[0][1]["prices"] == {"a": 2.5, "b": None}
    assert run(["budsim", "prices", "a=2.5"]) == 0
    assert "a, $ per hour" in capsys.readouterr().out


def test_two_prices_of_one_gpu_are_a_conflict(capsys: Captured) -> None:
    assert run(["budsim", "prices", "a=1", "a=2"]) == 6
    assert "a is named twice" in capsys.readouterr().err


def test_the_shipped_catalogue_needs_no_server(capsys: Captured) -> None:
    assert run(["budsim", "catalogue", "--offline", "--json"]) == 0
    found = {gpu["id"]: gpu for gpu in json.loads(capsys.readouterr().out)["data"]}
    assert found["nvidia-h100-80gb"]["memory_gb"] == 80
    assert found["nvidia-h100-80gb"]["price_per_hour"] == 2.29


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("width", [40, 80])
def test_ids_are_whole_however_narrow_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run(["budsim", "catalogue", "--offline"]) == 0
    shown = capsys.readouterr()
    table = [line for line in shown.out.splitlines() if line.startswith("nvidia-")]
    assert any(line.startswith("nvidia-h100-pcie-80gb ") for line in table)
    assert max(map(len, table)) <= width
    assert ("no room for" in shown.err) is (width == 40)


def test_a_probe_says_what_it_measured_in_which_unit(
    server: type[Server], capsys: Captured
) -> None:
    measured = {"memory_gb": 25.3, "bandwidth_gbps": 48.7, "bf16_tflops": 0.08}
    server.answers["/budsim/probe"] = (
        200,
        {"gpu": "cpu", "measured": measured, "measured_at": AT},
    )
    assert run(["budsim", "probe"]) == 0
    assert "memory bandwidth, GB/s" in capsys.readouterr().out
