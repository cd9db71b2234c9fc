"""What configurations would do: predicted, checked against rules and targets, simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foundry.cli.budsim import answering, inputs, options, tables, verdicts
from foundry.cli.output.console import Output, OutputOption, print_json, print_next, stdout
from foundry.cli.suggestions import suggest_models
from foundry.errors import InvalidConfiguration, InvalidRequest

# The parameters of one configuration; a file holds them instead.
_CONFIGURATION = (
    "gpu",
    "runtime",
    "tp",
    "pp",
    "replicas",
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "quantization",
    "kv_dtype",
)


def predict(
    context: typer.Context,
    model: options.Model = None,
    config: options.ConfigFile = None,
    gpu: options.Gpu = "",
    file: Annotated[
        Path | None, typer.Option(help="YAML: a list of configurations, instead of the flags")
    ] = None,
    runtime: options.Runtime = "vllm",
    tp: options.Tp = 1,
    pp: options.Pp = 1,
    replicas: options.Replicas = 1,
    max_model_len: options.MaxModelLen = None,
    max_num_seqs: options.MaxNumSeqs = 256,
    max_num_batched_tokens: options.MaxNumBatchedTokens = 8192,
    quantization: options.Quantization = "none",
    kv_dtype: options.KvDtype = "auto",
    users: options.Users = None,
    rate: options.Rate = None,
    input_tokens: options.InputTokens = "1024",
    output_tokens: options.OutputTokens = "256",
    confidence: options.Confidence = 0.9,
    prior: options.Prior = False,
    json: options.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what configurations would do: latencies, throughput and cost, with intervals."""
    shown = options.choose_output(context, json, output)
    rows: list[dict[str, Any]] = [
        {
            "gpu": gpu,
            "runtime": runtime,
            "tensor_parallel_size": tp,
            "pipeline_parallel_size": pp,
            "replicas": replicas,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
            "quantization": quantization,
            "kv_cache_dtype": kv_dtype,
        }
    ]
    if file is not None:
        options.refuse_ignored(context, _CONFIGURATION, f"{file} holds whole configurations")
        rows = inputs.read_configurations(file)
    else:
        _require_gpu(gpu)
        if max_model_len is not None:
            rows[0]["max_model_len"] = max_model_len
    fields = {
        "configurations": rows,
        "workload": inputs.build_workload(users, rate, input_tokens, output_tokens),
        "confidence": confidence,
        "method": "PRIOR" if prior else "REGRESSOR",
    }
    found = answering.predict(inputs.read_model(model, config), fields)
    if shown is Output.JSON:
        pairs = zip(rows, found["data"], strict=True)
        print_json([{"configuration": row, "prediction": one} for row, one in pairs])
    else:
        verdicts.print_prediction(rows, found)
    if not any(map(verdicts.carries_load, found["data"])):
        verdicts.end_unmet()


def validate(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="YAML: deployment{runtime, config, replicas, ...}")],
    model: Annotated[
        str | None, typer.Option(help="a registered model", autocompletion=suggest_models)
    ] = None,
    config: options.ConfigFile = None,
    cluster: options.ClusterFile = None,
    gpu: options.Gpus = None,
    users: options.Users = None,
    rate: options.Rate = None,
    input_tokens: options.InputTokens = "1024",
    output_tokens: options.OutputTokens = "256",
    slo: options.Slo = None,
    percentile: options.Percentile = "p95",
    json: options.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check a manual configuration: every rule it breaks, else what it would do."""
    shown = options.choose_output(context, json, output)
    given = options.find_given(context)
    fields = {
        "deployment": inputs.read_deployment(file),
        "workload": inputs.build_workload(users, rate, input_tokens, output_tokens),
        "cluster": inputs.build_cluster(cluster, gpu),
        "targets": inputs.build_targets(slo, percentile, "percentile" in given),
    }
    try:
        found = answering.validate(inputs.read_model(model, config), fields)
    except InvalidConfiguration as error:
        raise _report_broken(file, error, shown) from error
    met = verdicts.meets_targets(found)
    if shown is Output.JSON:
        print_json(found)
    else:
        verdicts.print_validation(found, met)
    if not met:
        step = "foundry budsim recommend, with the same options, finds what does"
        print_next(step, output=shown)
        verdicts.end_unmet()


def simulate(
    context: typer.Context,
    model: options.Model = None,
    config: options.ConfigFile = None,
    gpu: options.Gpu = "",
    trace: Annotated[
        Path | None,
        typer.Option(help="CSV or JSONL: arrived_at (s), num_prefill_tokens, num_decode_tokens"),
    ] = None,
    runtime: options.Runtime = "vllm",
    tp: options.Tp = 1,
    pp: options.Pp = 1,
    replicas: options.Replicas = 1,
    max_num_seqs: options.MaxNumSeqs = 256,
    max_num_batched_tokens: options.MaxNumBatchedTokens = 8192,
    users: options.Users = None,
    rate: options.Rate = None,
    input_tokens: options.InputTokens = "1024",
    output_tokens: options.OutputTokens = "256",
    requests: Annotated[int, typer.Option(min=1, max=20_000, help="made up, without a trace")] = (
        2000
    ),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="of what is made up")] = 0,
    json: options.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Replay requests through one configuration: percentiles under bursts."""
    shown = options.choose_output(context, json, output)
    _require_gpu(gpu)
    fields: dict[str, Any] = {
        "configuration": {
            "gpu": gpu,
            "runtime": runtime,
            "tensor_parallel_size": tp,
            "pipeline_parallel_size": pp,
            "replicas": replicas,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
        }
    }
    if trace is not None:
        made_up = (*options.WORKLOAD, "requests", "seed")
        options.refuse_ignored(context, made_up, f"{trace} says what arrives and when")
        fields["trace"] = inputs.read_trace_rows(trace)
    else:
        workload = inputs.build_workload(users, rate, input_tokens, output_tokens)
        fields |= {"workload": workload, "requests": requests, "seed": seed}
    found = answering.simulate(inputs.read_model(model, config), fields)
    if shown is Output.JSON:
        print_json(found)
        return
    _print_simulation(found)


def _print_simulation(found: dict[str, Any]) -> None:
    if found["saturated"]:
        stdout().print("saturated: requests arrive faster than they leave", style="bold yellow")
    tables.print_simulation(found)
    tables.print_prose(tables.DEFINITIONS, style="dim")


def _require_gpu(gpu: str) -> None:
    if not gpu:
        raise InvalidRequest("which GPU? --gpu ID; `foundry budsim catalogue` lists them")


def _report_broken(file: Path, error: InvalidConfiguration, output: Output) -> InvalidConfiguration:
    """Every broken rule on standard output; returns what goes to standard error."""
    violations = error.details.get("violations")
    if not isinstance(violations, list) or not violations:
        return error
    if output is Output.JSON:
        print_json({"violations": violations})
    else:
        for one in violations:
            tables.print_prose(f"{one['path']}: {one['reason']}")
    rules = "a rule" if len(violations) == 1 else f"{len(violations)} rules"
    return InvalidConfiguration(f"{file} breaks {rules}", **error.details)
