"""`foundry budsim predict`, `validate` and `simulate` as a user types them."""

import json
import re
from pathlib import Path

import pytest

from foundry.cli.main import run
from tests.cli.budsim.answers import PREDICTION, RESULT
from tests.cli.conftest import Server
from tests.serving.recommendations.questions import WORKLOAD

Captured = pytest.CaptureFixture[str]
MODEL = ("--config", "config.json")
GPU = ("--gpu", "nvidia-l40s-48gb")


def budsim(*arguments: str) -> int:
    return run(["budsim", *arguments])


def test_several_predictions_are_one_line_each_and_alarms_are_shown(
    server: type[Server], capsys: Captured, tmp_path: Path
) -> None:
    file = tmp_path / "configurations.yaml"
    file.write_text("- {gpu: nvidia-l40s-48gb}\n- {gpu: cpu}")
    answer = {"data": [PREDICTION, PREDICTION], "notes": ["predictions of cpu are stale"]}
    server.answers["/budsim/predict"] = (200, answer)
    assert budsim("predict", "smol", "--file", str(file)) == 0
    shown = capsys.readouterr().out
    assert shown.count("12.5 [10, 15]") == 2
    assert "note: predictions of cpu are stale" in shown


@pytest.mark.usefixtures("terminal")
def test_no_number_and_no_id_is_folded_at_80_columns(workplace: Path, capsys: Captured) -> None:
    assert budsim("predict", *MODEL, "--file", "configurations.yaml") == 0
    shown = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, shown)) <= 80
    rows = [line.split() for line in shown if line.startswith(("1 ", "2 "))]
    assert [row[:2] for row in rows] == [["1", "nvidia-l40s-48gb"], ["2", "nvidia-l4-24gb"]]
    # Number, accelerator, "2 x 1·1", five numbers and the confidence.
    assert {len(row) for row in rows} == {11}


def test_through_a_pipe_a_row_is_one_line_with_everything(
    workplace: Path, capsys: Captured
) -> None:
    assert budsim("predict", *MODEL, "--file", "configurations.yaml") == 0
    heading, *rows = capsys.readouterr().out.splitlines()[:3]
    assert "end to end p95, ms" in heading
    assert "trust" in heading
    assert [row.count("[") for row in rows] == [6, 6]


def test_a_single_prediction_is_a_table_of_its_own(server: type[Server], capsys: Captured) -> None:
    server.answers["/budsim/predict"] = (200, {"data": [PREDICTION]})
    command = "predict smol --gpu nvidia-l40s-48gb --tp 2 --users 16 --input-tokens 1024"
    assert budsim(*command.split()) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["TPOT,", "ms", "10", "12.5", "15"] in shown
    assert server.asked[0][1]["configurations"][0]["tensor_parallel_size"] == 2
    assert server.asked[0][1]["workload"]["input"]["mean"] == WORKLOAD["input"]["mean"]  # type: ignore[index]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_does_not_fit_or_carry_the_load_has_an_exit_code(
    workplace: Path, capsys: Captured, form: tuple[str, ...]
) -> None:
    assert budsim("predict", *MODEL, "--gpu", "nvidia-t4-16gb", *form) == 7
    assert "does not fit" in capsys.readouterr().out or form
    assert budsim("predict", *MODEL, *GPU, "--rate", "100000", *form) == 7
    assert "does not carry this load" in capsys.readouterr().out or form


def test_a_model_that_cannot_be_divided_so_is_not_predicted(
    workplace: Path, capsys: Captured
) -> None:
    arguments = "budsim predict --config config.json --gpu nvidia-h100-80gb --users 8 --tp 3"
    assert run(arguments.split()) == 2
    assert (
        "tensor_parallel_size: 3 does not divide the 32 attention heads" in capsys.readouterr().err
    )


def test_a_length_beyond_the_models_context_is_refused_with_its_number(
    workplace: Path, capsys: Captured
) -> None:
    asked = ["predict", *MODEL, *GPU, "--users", "4", "--max-model-len"]
    assert budsim(*asked, "200000") == 2
    assert "200000 is outside 1 to 8192, the model's own length" in capsys.readouterr().err
    assert budsim(*asked, "4096", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["configuration"]["max_model_len"] == 4096


def test_what_if_and_simulation_need_no_server(workplace: Path, capsys: Captured) -> None:
    local = [*MODEL, *GPU, "--users", "4", "--json"]
    assert budsim("predict", *local) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["configuration"]["gpu"] == "nvidia-l40s-48gb"
    assert row["prediction"]["fits"] is True
    assert budsim("simulate", *local, "--max-num-seqs", "8", "--requests", "20") == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 20


def test_a_simulation_has_units(workplace: Path, capsys: Captured) -> None:
    assert budsim("simulate", *MODEL, *GPU, "--trace", "trace.csv") == 0
    rows = capsys.readouterr().out.splitlines()
    names = [row.split("  ")[0] for row in rows]
    assert {"TTFT, ms", "end to end, ms", "output tokens/s", "busy, %", "requests"} <= set(names)


def test_every_violation_of_a_manual_configuration_is_named(
    server: type[Server], capsys: Captured, tmp_path: Path
) -> None:
    body = {"message": "$.deployment.replicas: 0", "type": "x", "code": "invalid_configuration"}
    server.answers["/budsim/validate"] = (422, {"error": body})
    file = tmp_path / "deployment.yaml"
    file.write_text("deployment: {replicas: 0}")
    assert budsim("validate", str(file), "--model", "smol") == 2
    assert "$.deployment.replicas: 0" in capsys.readouterr().err
    assert server.asked[0][1]["deployment"] == "deployment: {replicas: 0}"


def test_broken_rules_are_a_list_and_an_exit_code(workplace: Path, capsys: Captured) -> None:
    file = workplace / "deployment.yaml"
    file.write_text("deployment: {resources: {gpu_type: nvidia-l40s-48gb}, replicas: 0, speed: []}")
    command = ("validate", str(file), *MODEL, "--gpu", "nvidia-l40s-48gb:2")
    assert budsim(*command) == 2
    shown = capsys.readouterr()
    assert "$.deployment.replicas: 0 is outside 1 to 2147483648\n" in shown.out
    assert "$.deployment.speed: is no known field; remove it\n" in shown.out
    assert f"error: {file} breaks 2 rules" in shown.err
    assert budsim(*command, "--json") == 2
    paths = [one["path"] for one in json.loads(capsys.readouterr().out)["violations"]]
    assert paths == ["$.deployment.replicas", "$.deployment.speed"]


def test_a_manual_configuration_is_held_against_its_targets(
    workplace: Path, capsys: Captured
) -> None:
    command = ("validate", "deployment.yaml", *MODEL, "--gpu", "nvidia-l40s-48gb:2")
    assert budsim(*command) == 0
    assert capsys.readouterr().out.startswith("valid; no target was given (--slo)\n")
    assert budsim(*command, "--slo", "ttft=60000,tpot=5000") == 0
    assert capsys.readouterr().out.startswith("valid, and meets every target\n")
    assert budsim(*command, "--slo", "ttft=1,tpot=5000") == 7
    shown = capsys.readouterr()
    assert shown.out.startswith("breaks no rule, but misses ttft\n")
    assert "max_ttft_ms (binds)" in shown.out
    assert "foundry budsim recommend" in shown.err
    assert budsim(*command, "--slo", "ttft=1", "--json") == 7
    (target,) = json.loads(capsys.readouterr().out)["targets"]
    assert (target["name"], target["limit"], target["met"]) == ("max_ttft_ms", 1.0, False)
    assert target["slack"] == pytest.approx(1 - target["bound"])
    assert budsim(*command, "--rate", "100000") == 7
    assert "breaks no rule, but it does not carry this load" in capsys.readouterr().out


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize(
    ("prediction", "fields", "code", "says"),
    [
        ({}, {}, 0, "valid; no target was given (--slo)"),
        ({"fits": False}, {}, 7, "breaks no rule, but it does not fit into the memory"),
        (
            {"ttft_p95_ms": {"low": 9.0, "point": None, "high": None}},
            {},
            7,
            "but it does not carry",
        ),
        ({}, {"overloaded": True}, 7, "but it does not carry this load"),
        ({}, {"targets": [{**RESULT["targets"][0], "met": False}]}, 7, "but misses ttft"),
    ],
)
def test_a_no_has_one_exit_code_in_both_forms(
    server: type[Server],
    capsys: Captured,
    tmp_path: Path,
    prediction: dict[str, object],
    fields: dict[str, object],
    code: int,
    says: str,
    form: tuple[str, ...],
) -> None:
    answer = {
        "configuration": {},
        "prediction": {**PREDICTION, **prediction},
        "targets": [],
        "overloaded": False,
        "warnings": [],
        "predictor_version": "1",
        **fields,
    }
    server.answers["/budsim/validate"] = (200, answer)
    file = tmp_path / "deployment.yaml"
    file.write_text("deployment: {replicas: 1}")
    assert budsim("validate", str(file), "--model", "smol", *form) == code
    assert says in capsys.readouterr().out or form


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("predict", "--file", "configurations.yaml", *GPU, "--tp", "1"), "--gpu, --tp would be"),
        (("predict", *GPU, "--users", "1", "--rate", "1"), "give one of them"),
        (("predict", *GPU, "--json", "-o", "table"), "contradicts"),
        (("simulate", *GPU, "--trace", "trace.csv", "--users", "3"), "--users would be ignored"),
        (("simulate", *GPU, "--trace", "trace.csv", "--input-tokens", "9"), "--input-tokens would"),
        (("simulate", *GPU, "--trace", "trace.csv", "--seed", "0"), "--seed would be ignored"),
        (("simulate", *GPU, "--trace", "trace.csv", "--requests", "9"), "--requests would be"),
        (("validate", "deployment.yaml", "--percentile", "p50"), "--percentile p50 would be"),
        (("validate", "deployment.yaml", "--model", "smol"), "give one of them"),
    ],
)
def test_an_option_that_would_be_ignored_is_a_conflict(
    workplace: Path, capsys: Captured, command: tuple[str, ...], says: str
) -> None:
    assert budsim(*command, *MODEL) == 6
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (("predict",), 2, "which GPU?"),
        (("predict", *GPU, "--tp", "0"), 2, "--tp"),
        (("simulate",), 2, "which GPU?"),
        (("validate", "none.yaml"), 3, "there is no file none.yaml"),
        (("validate", "trace.csv"), 2, "trace.csv holds a single value"),
        (("validate", "cluster.yaml"), 2, "cluster.yaml has no `deployment:`"),
        (("validate", "deployment.yaml"), 2, "which GPUs?"),
    ],
)
def test_a_mistake_names_the_option_or_the_file(
    workplace: Path, capsys: Captured, command: tuple[str, ...], code: int, says: str
) -> None:
    assert budsim(*command, *MODEL) == code
    assert says in capsys.readouterr().err
