"""Recommendations: asked for, shown again, listed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from foundry.cli import session
from foundry.cli.budsim import answering, front, inputs, options, verdicts
from foundry.cli.files import refuse_unwritable
from foundry.cli.output.console import Output, OutputOption, print_json, print_rows, print_warning
from foundry.cli.suggestions import suggest_recommendations
from foundry.errors import Conflict, InvalidRequest

Runtimes = Annotated[
    list[str] | None,
    typer.Option("--runtime", help="allow vllm (default), sglang, tensorrt-llm; repeat for more"),
]
Quantizations = Annotated[
    list[str] | None,
    typer.Option(
        "--quantization", help="allow none (default), fp8, int8, int4, fp4; repeat for more"
    ),
]
KvDtypes = Annotated[
    list[str] | None,
    typer.Option("--kv-dtype", help="allow auto (default), fp8; repeat for both"),
]
MinReplicas = Annotated[int, typer.Option(min=1, max=100, help="2 survives the loss of one")]
MaxReplicas = Annotated[int, typer.Option(min=1, max=100, help="no answer has more")]
Objective = Annotated[
    Literal["cost", "ttft", "throughput"], typer.Option(help="orders the answers")
]

_OBJECTIVES = ("cost", "ttft", "throughput")


def recommend(
    context: typer.Context,
    model: options.Model = None,
    config: options.ConfigFile = None,
    cluster: options.ClusterFile = None,
    gpu: options.Gpus = None,
    users: options.Users = None,
    rate: options.Rate = None,
    input_tokens: options.InputTokens = "1024",
    output_tokens: options.OutputTokens = "256",
    slo: options.Slo = None,
    percentile: options.Percentile = "p95",
    runtime: Runtimes = None,
    quantization: Quantizations = None,
    kv_dtype: KvDtypes = None,
    min_replicas: MinReplicas = 1,
    max_replicas: MaxReplicas = 100,
    confidence: options.Confidence = 0.9,
    objective: Objective = "cost",
    prior: options.Prior = False,
    plot: options.Plot = False,
    png: options.Png = None,
    save: options.Save = None,
    json: options.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Find the cheapest configuration that meets the targets, and say why."""
    shown = options.choose_output(context, json, output)
    _refuse_early(shown, plot, png, save)
    _check_allowed(runtime, quantization, kv_dtype)
    policy: dict[str, Any] = {
        "runtimes": runtime,
        "quantizations": quantization,
        "kv_dtypes": kv_dtype,
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "confidence": confidence,
        "objectives": [objective, *(one for one in _OBJECTIVES if one != objective)],
    }
    given = options.find_given(context)
    question: Mapping[str, Any] = {
        "workload": inputs.build_workload(users, rate, input_tokens, output_tokens),
        "cluster": inputs.build_cluster(cluster, gpu),
        "targets": inputs.build_targets(slo, percentile, "percentile" in given),
        "policy": {name: value for name, value in policy.items() if value is not None},
        "method": "PRIOR" if prior else "REGRESSOR",
    }
    found = answering.recommend(inputs.read_model(model, config), question)
    _print_and_end(found, shown, plot=plot, png=png, save=save)


def explain(
    context: typer.Context,
    recommendation: Annotated[
        str,
        typer.Argument(
            help="its id, a beginning of it, its model, or last",
            autocompletion=suggest_recommendations,
        ),
    ],
    plot: options.Plot = False,
    png: options.Png = None,
    save: options.Save = None,
    json: options.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a stored recommendation again: the numbers behind it, and its alternatives."""
    shown = options.choose_output(context, json, output)
    _refuse_early(shown, plot, png, save)
    _print_and_end(answering.read_stored(recommendation), shown, plot=plot, png=png, save=save)


def list_recommendations(
    limit: session.LimitOption = session.DEFAULT_LIMIT, output: OutputOption = Output.TABLE
) -> None:
    """List recommendations, newest first, with what they answer."""
    with session.client() as client:
        rows = session.fetch_rows(
            client.budsim.recommendations(limit=session.choose_page_size(limit)), limit
        )
    if output is Output.TABLE:
        for row in rows:
            row["answer"] = _describe_answer(row)
    columns = ("id", "model", "answer", "created_at", "method", "created_by")
    print_rows(
        rows,
        output,
        columns=columns,
        empty="no recommendations yet: foundry budsim recommend MODEL",
    )


def _check_allowed(
    runtimes: list[str] | None, quantizations: list[str] | None, kv_dtypes: list[str] | None
) -> None:
    """Refuse what an option does not take.

    Raises InvalidRequest: one is unknown; Conflict: one is named twice.
    """
    from foundry.engines.budsim.request import KV_DTYPES, QUANTIZATIONS, RUNTIMES

    for flag, given, known in (
        ("--runtime", runtimes, RUNTIMES),
        ("--quantization", quantizations, QUANTIZATIONS),
        ("--kv-dtype", kv_dtypes, KV_DTYPES),
    ):
        for value in given or ():
            if value not in known:
                raise InvalidRequest(f"{flag} {value}: use {', '.join(known)}; repeat for more")
        if given and len(set(given)) < len(given):
            raise Conflict(f"{flag} names one twice: give it once")


def _refuse_early(output: Output, plot: bool, png: Path | None, save: Path | None) -> None:
    """What would fail after the search."""
    options.refuse_drawing(output, plot)
    if png is not None:
        refuse_unwritable(png)
    if save is not None:
        refuse_unwritable(save, keep=True)


def _print_and_end(
    found: answering.Answer, output: Output, *, plot: bool, png: Path | None, save: Path | None
) -> None:
    """Print an answer, and end as it says.

    Raises typer.Exit: the answer is no.
    """
    if output is Output.JSON:
        print_json(found.result)
    else:
        verdicts.print_recommendation(found)
    front.show_front(found.result, plot=plot, png=png)
    saved = save if found.met else None
    if saved is not None:
        verdicts.save_question(found, saved)
    elif save is not None:
        print_warning(f"{save} was not written: nothing meets the question")
    verdicts.print_steps(found, saved, output)
    if not found.met:
        verdicts.end_unmet()


def _describe_answer(row: Mapping[str, Any]) -> str:
    """Say in a few words what to set, or why there is nothing."""
    if row["state"] != "DONE":
        return str(row["state"]).lower()
    result = row["result"] or {}
    choice = result.get("choice")
    if choice is None:
        return "nothing fits"
    at = choice["configuration"]
    gpus = at["tensor_parallel_size"] * at["pipeline_parallel_size"] * at["replicas"]
    return f"{gpus} x {at['gpu']}" if result.get("feasible") else "targets not met"
