"""`foundry budsim recommend`, `explain` and `list` as a user types them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from foundry.cli.main import run
from tests.cli.budsim.answers import CONFIGURATION, RESULT, make_row
from tests.cli.conftest import Server
from tests.sdk.answers import JOB_ID

Captured = pytest.CaptureFixture[str]
LOCAL = ("--config", "config.json", "--cluster", "cluster.yaml")


def recommend(*arguments: str) -> int:
    return run(["budsim", "recommend", *arguments])


def test_a_recommendation_is_shown_with_its_reason_and_alternatives(
    server: type[Server], capsys: Captured
) -> None:
    server.answers["/budsim/recommendations"] = (202, make_row())
    assert recommend("smol", "--users", "16", "--slo", "ttft=500", "--slo", "tpot=50") == 0
    shown = capsys.readouterr()
    for words in (
        "meets every target",
        "2 x nvidia-l40s-48gb per replica",
        "max_ttft_ms (binds)",
        "+70%",
        "confidence low: new GPU",
        "Bottleneck: bandwidth.",
        "0.625",
        "Pareto front",
    ):
        assert words in shown.out, shown.out
    # What was asked about is the cluster that is there, so the answer can be applied.
    assert shown.err.splitlines()[-4:] == [
        f"next: foundry budsim explain {JOB_ID} --save smol.yaml",
        "      foundry endpoints create smol@1.0.0",
        "      foundry endpoints configure smol smol.yaml",
        "      foundry deploy smol@1.0.0",
    ]
    (path, asked), *_ = server.asked
    assert path == "/budsim/recommendations"
    assert asked["model"] == "smol"
    assert asked["workload"]["users"] == 16
    assert asked["targets"] | {"max_ttft_ms": 500, "max_tpot_ms": 50} == asked["targets"]
    assert asked["cluster"] is None


def test_an_answer_about_other_accelerators_is_not_to_be_applied(
    server: type[Server], capsys: Captured
) -> None:
    server.answers["/budsim/recommendations"] = (202, make_row())
    assert recommend("smol", "--gpu", "nvidia-l40s-48gb:4") == 0
    shown = capsys.readouterr().err
    assert "next: the same without --gpu and --cluster asks the cluster that is there" in shown
    assert "endpoints" not in shown
    assert server.asked[0][1]["cluster"]["groups"][0]["gpus_per_node"] == 4


def test_without_targets_none_is_said_to_be_met(server: type[Server], capsys: Captured) -> None:
    server.answers["/budsim/recommendations"] = (202, make_row(result={**RESULT, "targets": []}))
    assert recommend("smol") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("the cheapest configuration that fits; no target was given (--slo)\n")
    assert "meets every target" not in shown


def test_the_objective_is_named(workplace: Path, capsys: Captured) -> None:
    assert recommend(*LOCAL, "--objective", "throughput", "--quantization", "none") == 0
    assert "the configuration with the most throughput that fits" in capsys.readouterr().out


def test_a_search_that_takes_longer_is_waited_for_under_its_id(
    server: type[Server], capsys: Captured
) -> None:
    server.answers["/budsim/recommendations"] = (202, make_row(state="RUNNING", result=None))
    server.answers[f"/budsim/recommendations/{JOB_ID}"] = (200, make_row())
    assert recommend("smol", "--users", "4", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"id": JOB_ID, **RESULT}
    assert shown.err == f"searching {JOB_ID}, running\n"


def test_an_interrupted_wait_says_where_the_answer_will_be(
    server: type[Server], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    server.answers[f"/budsim/recommendations/{JOB_ID}"] = (
        200,
        make_row(state="RUNNING", result=None),
    )
    monkeypatch.setattr("foundry.sdk.budsim.until", interrupt)
    assert run(["budsim", "explain", JOB_ID]) == 130
    assert f"its answer  foundry budsim explain {JOB_ID}" in capsys.readouterr().err


def test_a_failed_search_is_an_error_with_its_own_exit_code(
    server: type[Server], capsys: Captured
) -> None:
    error = {"code": "invalid_value", "message": "requests exceed the model's 512 tokens"}
    server.answers["/budsim/recommendations"] = (
        202,
        make_row(state="FAILED", result=None, error=error),
    )
    assert recommend("smol") == 2
    assert "exceed the model's 512 tokens" in capsys.readouterr().err


def test_the_front_is_drawn(server: type[Server], capsys: Captured, tmp_path: Path) -> None:
    server.answers[f"/budsim/recommendations/{JOB_ID}"] = (200, make_row())
    picture = tmp_path / "front.png"
    assert run(["budsim", "explain", JOB_ID, "--plot", "--png", str(picture)]) == 0
    assert "$ per million output tokens" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_nothing_fits_is_said_with_the_closest_and_an_exit_code(
    server: type[Server], capsys: Captured
) -> None:
    shortage = {"gpu": "nvidia-t4-16gb", "term": "weights", "missing_bytes": 1e9, "reason": "1 GB"}
    empty: dict[str, Any] = {
        "feasible": False,
        "choice": None,
        "alternatives": [],
        "shortage": shortage,
    }
    server.answers["/budsim/recommendations"] = (202, make_row(result={**RESULT, **empty}))
    assert recommend("smol", "--plot") == 7
    shown = capsys.readouterr()
    assert shown.out.startswith("nothing fits\nclosest: 1 GB\nor other accelerators: --gpu")
    assert shown.err.splitlines()[-2:] == [
        "nothing fits, so no front is drawn",
        f"next: foundry budsim explain {JOB_ID} shows this again",
    ]


def test_missed_targets_say_what_would_do(workplace: Path, capsys: Captured) -> None:
    assert recommend(*LOCAL, "--users", "8", "--slo", "ttft=1,cost=100") == 7
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "nothing meets the targets; the nearest misses ttft"
    (line,) = [line for line in shown if line.startswith("would do: --slo ttft=")]
    would_do = line.split()[3]
    assert "(asked: 1), the rest as it is" in line
    assert recommend(*LOCAL, "--users", "8", "--slo", would_do, "--slo", "cost=100") == 0
    assert capsys.readouterr().out.startswith("meets every target\n")


def test_where_one_target_is_not_enough_the_nearest_answer_says_which_it_meets(
    workplace: Path, capsys: Captured
) -> None:
    asked = (*LOCAL, "--users", "8", "--slo")
    assert recommend(*asked, "ttft=1,tpot=1,cost=100") == 7
    nearest = re.search(r"the nearest meets --slo (\S+)", capsys.readouterr().out)
    assert nearest is not None
    assert nearest[1].endswith(",cost=100")
    assert recommend(*asked, nearest[1]) == 0
    assert capsys.readouterr().out.startswith("meets every target")


def test_json_of_an_infeasible_answer_is_printed_all_the_same(
    workplace: Path, capsys: Captured
) -> None:
    assert recommend(*LOCAL, "--slo", "tpot=0.001", "--json") == 7
    found = json.loads(capsys.readouterr().out)
    assert (found["feasible"], found["binding"]) == (False, "max_tpot_ms")


def test_a_load_that_nothing_carries_is_not_a_missed_target(
    workplace: Path, capsys: Captured
) -> None:
    assert recommend(*LOCAL, "--rate", "100000") == 7
    assert capsys.readouterr().out.startswith("nothing carries this load; nearest\nor other")


def test_without_a_server_the_answer_is_computed_here(workplace: Path, capsys: Captured) -> None:
    assert recommend(*LOCAL, "--users", "8", "--slo", "tpot=200", "--plot") == 0
    shown = capsys.readouterr()
    for words in ("meets every target", "max_tpot_ms (binds)", "Bottleneck:", "$ per million"):
        assert words in shown.out, shown.out
    assert "next: to serve it here, register the model" in shown.err


def test_a_configuration_without_gpus_is_asked_for_them(workplace: Path, capsys: Captured) -> None:
    assert recommend("--config", ".") == 2
    assert "--gpu ID:COUNT" in capsys.readouterr().err


def test_the_question_is_saved_for_an_endpoint(
    server: type[Server], capsys: Captured, tmp_path: Path
) -> None:
    from foundry.serving.endpoints.schemas import EndpointConfigure

    asked = {
        "workload": {"users": 8.0, "rate": None, "input": {"mean": 10.0, "p50": None}},
        "cluster": {"groups": [{"gpu": "cpu", "gpus_per_node": 1}]},
        "targets": {"max_ttft_ms": 500.0, "max_tpot_ms": None, "percentile": "p95"},
        "policy": {"runtimes": ["vllm"], "max_model_len": None},
        "method": "REGRESSOR",
    }
    asked["workload"]["output"] = {"mean": 5.0}  # type: ignore[index]
    server.answers[f"/budsim/recommendations/{JOB_ID}"] = (200, make_row(request=asked))
    file = tmp_path / "smol.yaml"
    assert run(["budsim", "explain", JOB_ID, "--save", str(file)]) == 0
    assert (
        f"next: foundry endpoints create smol@1.0.0\n      foundry endpoints configure smol {file}"
        in (capsys.readouterr().err)
    )
    wanted = EndpointConfigure.model_validate(yaml.safe_load(file.read_text()))
    assert wanted.method == "REGRESSOR"
    assert wanted.performance_targets is not None
    assert wanted.performance_targets.max_ttft_ms == 500
    # The live cluster is to answer, not the one of the day of the question.
    assert wanted.cluster is None
    assert run(["budsim", "explain", JOB_ID, "--save", str(file)]) == 6
    assert "exists: give another name" in capsys.readouterr().err


def test_recommendations_are_listed_with_their_answers(
    server: type[Server], capsys: Captured
) -> None:
    rows = [
        make_row(),
        make_row(result={**RESULT, "feasible": False}),
        make_row(result={**RESULT, "choice": None}),
        make_row(state="RUNNING", result=None),
    ]
    server.answers["/budsim/recommendations"] = (200, {"data": rows, "next_cursor": None})
    assert run(["budsim", "list"]) == 0
    shown = capsys.readouterr().out
    at = CONFIGURATION
    gpus = at["replicas"] * at["tensor_parallel_size"]
    for words in (f"{gpus} x {at['gpu']}", "targets not met", "nothing fits", "running", JOB_ID):
        assert words in shown, shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("smol", "--config", "config.json"), "give one of them"),
        (("--users", "1", "--rate", "2"), "give one of them"),
        (("--cluster", "cluster.yaml", "--gpu", "L40S:2"), "the count of --gpu L40S:2"),
        (("--gpu", "L4", "--gpu", "L4:2"), "names L4 twice"),
        (("--percentile", "p99"), "--percentile p99 would be ignored"),
        (("--percentile", "p99", "--slo", "tpot=5"), "--percentile p99 would be ignored"),
        (("--slo", "ttft=1", "--slo", "ttft=2"), "--slo names ttft twice"),
        (("--json", "--plot"), "spoil the JSON"),
        (("--json", "--output", "table"), "contradicts --output table"),
        (("--runtime", "vllm", "--runtime", "vllm"), "--runtime names one twice"),
        (("--save", "config.json"), "config.json exists"),
    ],
)
def test_an_option_that_would_be_ignored_is_a_conflict(
    workplace: Path, capsys: Captured, options: tuple[str, ...], says: str
) -> None:
    model = () if "smol" in options else ("--config", "config.json")
    assert recommend(*model, *options) == 6
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--gpu", "gpu9:1"), "no accelerator 'gpu9'"),
        (("--gpu", "L4", "--runtime", "ollama"), "--runtime ollama: use vllm"),
        (("--gpu", "L4", "--png", "no/such.png"), "there is no directory no"),
        (("--gpu", "L4", "--save", "."), ". is a directory"),
        (("--gpu", "L4", "--slo", "speed=3"), "write ttft=…"),
        (("--gpu", "L4", "--input-tokens", "1/2"), "--input-tokens 1/2: write MEAN"),
        (("--gpu", "L4", "--input-tokens", "100000"), "exceed the model's"),
    ],
)
def test_a_mistake_names_the_option(
    workplace: Path, capsys: Captured, options: tuple[str, ...], says: str
) -> None:
    assert recommend("--config", "config.json", *options) == 2
    assert says in capsys.readouterr().err
