"""`foundry budsim`: what to set for a model, these GPUs, these targets and this budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from foundry.cli import budsim_engine as engine
from foundry.cli import budsim_inputs as inputs
from foundry.cli import budsim_tables as tables
from foundry.cli import predictors, recalibration, session
from foundry.cli.console import Output, OutputOption, print_json, print_record, print_rows, stdout
from foundry.errors import InvalidRequest

app = typer.Typer(add_completion=False, no_args_is_help=True)

Runtimes = Annotated[
    list[str] | None,
    typer.Option("--runtime", help="allow vllm (default), sglang, tensorrt-llm; repeat for more"),
]
Quantizations = Annotated[
    list[str] | None,
    typer.Option("--quantization", help="allow none (default), fp8, int8, int4, fp4; repeat"),
]
KvDtypes = Annotated[
    list[str] | None,
    typer.Option("--kv-dtype", help="allow auto (default), fp8; repeat for both"),
]
MinReplicas = Annotated[int, typer.Option(min=1, help="2 survives the loss of one")]
MaxReplicas = Annotated[int, typer.Option(min=1, max=100)]
Confidence = Annotated[float, typer.Option(min=0.5, max=0.99, help="of the intervals")]
Objective = Annotated[
    Literal["cost", "ttft", "throughput"], typer.Option(help="orders the answers")
]
Plot = Annotated[bool, typer.Option("--plot", help="the Pareto front, in the terminal")]
Png = Annotated[Path | None, typer.Option(help="the Pareto front, into this file")]
Runtime = Annotated[Literal["vllm", "sglang", "tensorrt-llm"], typer.Option()]
Gpu = Annotated[str, typer.Option(help="catalogue id: foundry budsim catalogue")]


@app.command(
    epilog="Example: foundry budsim recommend smollm2-135m --users 32 --slo ttft=500,tpot=50 · "
    "without a server: foundry budsim recommend --config ./llama/config.json "
    "--gpu nvidia-h100-80gb:8 --users 64 --slo ttft=1000,cost=20 --plot"
)
def recommend(
    model: inputs.Model = None,
    config: inputs.ConfigFile = None,
    cluster: inputs.ClusterFile = None,
    gpu: inputs.Gpus = None,
    users: inputs.Users = None,
    rate: inputs.Rate = None,
    input_tokens: inputs.InputTokens = "1024",
    output_tokens: inputs.OutputTokens = "256",
    slo: inputs.Slo = None,
    percentile: inputs.Percentile = "p95",
    runtime: Runtimes = None,
    quantization: Quantizations = None,
    kv_dtype: KvDtypes = None,
    min_replicas: MinReplicas = 1,
    max_replicas: MaxReplicas = 100,
    confidence: Confidence = 0.9,
    objective: Objective = "cost",
    prior: inputs.Prior = False,
    plot: Plot = False,
    png: Png = None,
    json: inputs.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Find the cheapest configuration that meets the targets, and say why."""
    policy: dict[str, Any] = {
        "runtimes": runtime,
        "quantizations": quantization,
        "kv_dtypes": kv_dtype,
        "min_replicas": min_replicas,
        "max_replicas": max_replicas,
        "confidence": confidence,
        "objectives": [objective, *(o for o in ("cost", "ttft", "throughput") if o != objective)],
    }
    question = {
        "workload": inputs.workload(users, rate, input_tokens, output_tokens),
        "cluster": inputs.cluster(cluster, gpu),
        "targets": inputs.targets(slo, percentile),
        "policy": {name: value for name, value in policy.items() if value is not None},
        "method": "PRIOR" if prior else "REGRESSOR",
    }
    found = engine.recommend(inputs.asked_model(model, config), question)
    _show(found, _format(json, output), plot=plot, png=png)


@app.command(epilog="Example: foundry budsim explain 0198f3c2-0000-7000-8000-000000000001")
def explain(
    recommendation: Annotated[str, typer.Argument(help="its id, as `recommend` printed it")],
    plot: Plot = False,
    png: Png = None,
    json: inputs.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a stored recommendation again: the numbers behind it, and its alternatives."""
    found = engine.recommendation(recommendation)
    _show(found, _format(json, output), plot=plot, png=png)


@app.command(
    epilog="Example: foundry budsim predict smollm2-135m --gpu nvidia-l4-24gb --users 8 · "
    "many: foundry budsim predict --config ./config.json --file configurations.yaml"
)
def predict(
    model: inputs.Model = None,
    config: inputs.ConfigFile = None,
    gpu: Gpu = "",
    file: Annotated[
        Path | None, typer.Option(help="YAML: a list of configurations, instead of the flags")
    ] = None,
    runtime: Runtime = "vllm",
    tp: int = 1,
    pp: int = 1,
    replicas: int = 1,
    max_model_len: int = 8192,
    max_num_seqs: int = 256,
    max_num_batched_tokens: int = 8192,
    quantization: str = "none",
    kv_dtype: str = "auto",
    users: inputs.Users = None,
    rate: inputs.Rate = None,
    input_tokens: inputs.InputTokens = "1024",
    output_tokens: inputs.OutputTokens = "256",
    confidence: Confidence = 0.9,
    prior: inputs.Prior = False,
    json: inputs.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what configurations would do: latencies, throughput and cost, with intervals."""
    rows = [
        {
            "gpu": gpu,
            "runtime": runtime,
            "tensor_parallel_size": tp,
            "pipeline_parallel_size": pp,
            "replicas": replicas,
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
            "quantization": quantization,
            "kv_cache_dtype": kv_dtype,
        }
    ]
    if file is not None:
        rows = inputs.configurations(file)
    elif not gpu:
        raise InvalidRequest("which GPU? --gpu ID; `foundry budsim catalogue` lists them")
    fields = {
        "configurations": rows,
        "workload": inputs.workload(users, rate, input_tokens, output_tokens),
        "confidence": confidence,
        "method": "PRIOR" if prior else "REGRESSOR",
    }
    found = engine.predict(inputs.asked_model(model, config), fields)
    if _format(json, output) is Output.JSON:
        print_json(
            [
                {"configuration": c, "prediction": p}
                for c, p in zip(rows, found["data"], strict=True)
            ]
        )
        return
    tables.print_predictions(rows, found)


@app.command(
    epilog="Example: foundry budsim validate deployment.yaml --model smollm2-135m --users 8"
)
def validate(
    file: Annotated[Path, typer.Argument(help="YAML: deployment{runtime, config, replicas, ...}")],
    model: Annotated[str | None, typer.Option(help="a registered model")] = None,
    config: inputs.ConfigFile = None,
    cluster: inputs.ClusterFile = None,
    gpu: inputs.Gpus = None,
    users: inputs.Users = None,
    rate: inputs.Rate = None,
    input_tokens: inputs.InputTokens = "1024",
    output_tokens: inputs.OutputTokens = "256",
    slo: inputs.Slo = None,
    percentile: inputs.Percentile = "p95",
    json: inputs.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check a manual configuration: every rule it breaks, else what it would do."""
    fields = {
        "deployment": inputs.text(file),
        "workload": inputs.workload(users, rate, input_tokens, output_tokens),
        "cluster": inputs.cluster(cluster, gpu),
        "targets": inputs.targets(slo, percentile),
    }
    found = engine.validate(inputs.asked_model(model, config), fields)
    if _format(json, output) is Output.JSON:
        print_json(found)
        return
    tables.print_validation(found)


@app.command(
    epilog="Example: foundry budsim simulate smollm2-135m --gpu nvidia-l4-24gb --rate 4 · "
    "a trace: foundry budsim simulate --config ./config.json --gpu nvidia-l4-24gb --trace t.csv"
)
def simulate(
    model: inputs.Model = None,
    config: inputs.ConfigFile = None,
    gpu: Gpu = "",
    trace: Annotated[
        Path | None,
        typer.Option(help="CSV or JSONL: arrived_at (s), num_prefill_tokens, num_decode_tokens"),
    ] = None,
    runtime: Runtime = "vllm",
    tp: int = 1,
    pp: int = 1,
    replicas: int = 1,
    max_num_seqs: int = 256,
    max_num_batched_tokens: int = 8192,
    users: inputs.Users = None,
    rate: inputs.Rate = None,
    input_tokens: inputs.InputTokens = "1024",
    output_tokens: inputs.OutputTokens = "256",
    requests: int = 2000,
    seed: int = 0,
    json: inputs.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Replay requests through one configuration: percentiles under bursts."""
    if not gpu:
        raise InvalidRequest("which GPU? --gpu ID; `foundry budsim catalogue` lists them")
    fields: dict[str, Any] = {
        "configuration": {
            "gpu": gpu,
            "runtime": runtime,
            "tensor_parallel_size": tp,
            "pipeline_parallel_size": pp,
            "replicas": replicas,
            "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens,
        },
        "requests": requests,
        "seed": seed,
    }
    if trace is not None:
        fields["trace"] = inputs.trace(trace)
    else:
        fields["workload"] = inputs.workload(users, rate, input_tokens, output_tokens)
    found = engine.simulate(inputs.asked_model(model, config), fields)
    if _format(json, output) is Output.JSON:
        print_json(found)
        return
    stdout().print(tables.simulation(found))


@app.command("list", epilog="Example: foundry budsim list")
def list_recommendations(
    limit: session.LimitOption = session.DEFAULT_LIMIT, output: OutputOption = Output.TABLE
) -> None:
    """List recommendations, newest first."""
    with session.client() as client:
        rows = session.fetched(
            lambda cursor, size: client.budsim.recommendations(cursor=cursor, limit=size), limit
        )
    columns = ("id", "model", "method", "state", "created_by", "created_at")
    print_rows(rows, output, columns=columns, empty="none yet: foundry budsim recommend MODEL")


@app.command(epilog="Example: foundry budsim catalogue · foundry budsim catalogue --offline")
def catalogue(
    offline: Annotated[bool, typer.Option("--offline", help="as shipped; needs no server")] = False,
    json: inputs.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the accelerators that budsim knows, and their prices."""
    found = engine.catalogue(offline)
    if _format(json, output) is Output.JSON:
        print_json(found)
        return
    print_rows(found["data"], Output.TABLE, columns=tables.CATALOGUE)


@app.command(epilog="Example: foundry budsim prices nvidia-l4-24gb=0.71 nvidia-t4-16gb=")
def prices(
    changes: Annotated[list[str], typer.Argument(help="GPU=PRICE in $/h; GPU= undoes")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Set what a GPU costs per hour, for the whole tenant."""
    with session.client() as client:
        print_record(session.record(client.budsim.set_prices(inputs.prices(changes))), output)


def _format(json: bool, output: Output) -> Output:
    return Output.JSON if json else output


def _show(found: dict[str, Any], output: Output, *, plot: bool, png: Path | None) -> None:
    if output is Output.JSON:
        print_json(found)
    else:
        tables.print_recommendation(found)
    if plot:
        tables.print_front(found)
    if png is not None:
        tables.write_front(found, png)


for part in (recalibration, predictors):
    part.register(app)
