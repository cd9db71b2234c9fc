"""What an answer says in one line, what would do where it says no, and the step after it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from foundry.cli.budsim import tables
from foundry.cli.budsim.inputs import TARGETS
from foundry.cli.files import write_text
from foundry.cli.output.console import Output, print_next, print_note, stdout
from foundry.cli.output.exit_codes import ExitCode

if TYPE_CHECKING:
    from foundry.cli.budsim.answering import Answer

Fields = Mapping[str, Any]
_TOO_LARGE = "it does not fit into the memory"
_OVERLOADED = "it does not carry this load: requests arrive faster than they leave"
_OTHERS = "or other accelerators: --gpu ID:COUNT (foundry budsim catalogue lists them)"
_SHORT = {field: name for name, field in TARGETS.items()}
_BEST = {
    "cost": "the cheapest configuration",
    "ttft": "the configuration with the earliest first token",
    "throughput": "the configuration with the most throughput",
}


def end_unmet() -> NoReturn:
    """Ends a command whose answer was shown and is no."""
    raise typer.Exit(ExitCode.UNMET)


def print_recommendation(answer: Answer) -> None:
    """What to set, what to expect, why, and what else there is."""
    found, out = answer.result, stdout()
    choice = found["choice"]
    if choice is None:
        out.print("nothing fits", style="bold red")
        shortage = found.get("shortage") or {}
        tables.print_prose(f"closest: {shortage.get('reason')}")
        tables.print_prose(_OTHERS)
        _print_notes(note for note in found["notes"] if str(shortage.get("reason")) not in note)
        return
    out.print(
        _write_verdict(answer), style="bold green" if answer.met else "bold red", markup=False
    )
    for line in _list_remedies(found):
        tables.print_prose(line)
    out.print()
    tables.print_configuration(found)
    out.print()
    tables.print_estimates(choice["prediction"])
    if found["targets"]:
        out.print()
        tables.print_targets(found["targets"], found["binding"])
    out.print()
    explanation = found.get("explanation")
    if explanation is not None:
        tables.print_prose(explanation["text"])
    _print_notes(found["notes"])
    if found["alternatives"]:
        out.print()
        tables.print_alternatives([choice, *found["alternatives"]])
    tables.print_prose(tables.DEFINITIONS, style="dim")


def print_steps(answer: Answer, saved: Path | None, output: Output) -> None:
    """What to type now."""
    if answer.met:
        print_next(*_list_next_steps(answer, saved), output=output)
    elif "id" in answer.result:
        print_next(f"foundry budsim explain {answer.result['id']} shows this again", output=output)


def print_prediction(rows: list[dict[str, Any]], found: Fields) -> None:
    """Predictions of configurations."""
    out, predictions = stdout(), found["data"]
    if len(rows) == 1:
        (only,) = predictions
        if not only["fits"]:
            out.print(_TOO_LARGE, style="bold red")
        elif not carries_load(only):
            out.print(_OVERLOADED, style="bold red")
        tables.print_estimates(only)
    else:
        tables.print_predictions(rows, predictions)
    _print_notes(found["notes"])
    tables.print_prose(tables.DEFINITIONS, style="dim")


def carries_load(prediction: Fields) -> bool:
    """Whether a configuration fits, and its queue ends."""
    return bool(prediction["fits"]) and prediction["ttft_p95_ms"]["point"] is not None


def meets_targets(found: Fields) -> bool:
    """Whether a manual configuration carries the load, and meets every target that was named."""
    return (
        not found["overloaded"]
        and carries_load(found["prediction"])
        and all(target["met"] for target in found["targets"])
    )


def print_validation(found: Fields, met: bool) -> None:
    """A manual configuration that breaks no rule.

    Args:
        met: it does what was asked.
    """
    out = stdout()
    out.print(_judge_manual(found), style="bold green" if met else "bold red", markup=False)
    tables.print_estimates(found["prediction"])
    if found["targets"]:
        worst = min(found["targets"], key=lambda target: _rank_slack(target["slack"]))
        out.print()
        tables.print_targets(found["targets"], worst["name"])
    for warning in found["warnings"]:
        tables.print_prose(f"warning: {warning}", style="yellow")


def save_question(answer: Answer, file: Path) -> None:
    """The question as a file for `foundry endpoints configure`."""
    import yaml

    question = answer.question
    document: dict[str, Any] = {
        "optimization_method": question.get("method", "REGRESSOR"),
        "performance_targets": _drop_null(question["targets"]),
        "workload": _drop_null(question["workload"]),
        "policy": _drop_null(question.get("policy") or {}),
    }
    if answer.what_if:
        document["cluster"] = question["cluster"]
    write_text(file, yaml.safe_dump(_drop_nulls(document), sort_keys=False))
    print_note(f"wrote {file}")


def _write_verdict(answer: Answer) -> str:
    found = answer.result
    if answer.met:
        if found["targets"]:
            return "meets every target"
        return f"{_BEST[answer.objective]} that fits; no target was given (--slo)"
    if found["overloaded"]:
        return "nothing carries this load; nearest"
    missed = [_SHORT[one["name"]] for one in found["targets"] if not one["met"]]
    return f"nothing meets the targets; the nearest misses {', '.join(missed)}"


def _list_remedies(found: Fields) -> Iterator[str]:
    """The smallest changes that make an infeasible answer feasible."""
    if found["feasible"]:
        return
    relaxed = [target for target in found["targets"] if target.get("relaxed") is not None]
    for target in relaxed:
        name, limit = _SHORT[target["name"]], _round_relaxed(target["name"], target["relaxed"])
        yield f"would do: --slo {name}={limit} (asked: {target['limit']:g}), the rest as it is"
    if found["targets"] and not relaxed and not found["overloaded"]:
        yield f"no single target is enough to relax: {_describe_nearest(found['targets'])}"
    yield _OTHERS


def _describe_nearest(targets: Sequence[Fields]) -> str:
    """The targets that the nearest configuration meets, as they are asked for."""
    if any(target["bound"] is None for target in targets):
        return "relax several"
    held = (
        (target["name"], target["limit"] if target["met"] else target["bound"])
        for target in targets
    )
    asked = ",".join(f"{_SHORT[name]}={_round_relaxed(name, limit)}" for name, limit in held)
    return f"the nearest meets --slo {asked}"


def _round_relaxed(name: str, value: float) -> str:
    """Three digits, to the side on which it is met."""
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    steps = math.floor(value / unit) if name == "min_throughput_tps" else math.ceil(value / unit)
    return f"{steps * unit:.10g}"


def _list_next_steps(answer: Answer, saved: Path | None) -> Iterator[str]:
    """Commands after an answer that is a yes, in the order in which they are typed."""
    if answer.model is None:
        yield "to serve it here, register the model: foundry models import --help"
        yield "then ask again with its name in place of --config"
        return
    name = answer.model.partition("@")[0]
    if answer.what_if and saved is None:
        yield "the same without --gpu and --cluster asks the cluster that is there"
        return
    file = saved or Path(f"{name}.yaml")
    if saved is None:
        yield f"foundry budsim explain {answer.result['id']} --save {file}"
    yield f"foundry endpoints create {answer.model}"
    yield f"foundry endpoints configure {name} {file}"
    yield f"foundry deploy {answer.model}"


def _judge_manual(found: Fields) -> str:
    if not found["prediction"]["fits"]:
        return f"breaks no rule, but {_TOO_LARGE}"
    if found["overloaded"] or not carries_load(found["prediction"]):
        return f"breaks no rule, but {_OVERLOADED}"
    missed = [target for target in found["targets"] if not target["met"]]
    if missed:
        names = ", ".join(_SHORT[target["name"]] for target in missed)
        return f"breaks no rule, but misses {names}"
    if found["targets"]:
        return "valid, and meets every target"
    return "valid; no target was given (--slo)"


def _rank_slack(slack: float | None) -> float:
    return -math.inf if slack is None else slack


def _print_notes(notes: Any) -> None:
    for note in notes:
        tables.print_prose(f"note: {note}", style="yellow")


def _drop_null(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _drop_nulls(value: Any) -> Any:
    """Lists for tuples, and no null: YAML without tags."""
    if isinstance(value, Mapping):
        return {name: _drop_nulls(item) for name, item in _drop_null(value).items()}
    return [_drop_nulls(item) for item in value] if isinstance(value, list | tuple) else value
