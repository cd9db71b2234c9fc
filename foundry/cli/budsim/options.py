"""The options that several commands share, and which of them nothing would read."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from foundry.cli.output.console import Output
from foundry.cli.suggestions import suggest_models
from foundry.errors import Conflict

Model = Annotated[
    str | None,
    typer.Argument(
        help="a registered model; or --config, without a server", autocompletion=suggest_models
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="a config.json, or a directory with one: needs no server"),
]
ClusterFile = Annotated[
    Path | None, typer.Option("--cluster", help="YAML: groups of {gpu, gpus_per_node, nodes, ...}")
]
Gpus = Annotated[
    list[str] | None,
    typer.Option("--gpu", help="what if: ID:COUNT, or ID of the --cluster; repeat for more"),
]
Users = Annotated[float | None, typer.Option(min=1, help="requests always in flight; default 1")]
Rate = Annotated[float | None, typer.Option(help="requests per second, instead of --users")]
InputTokens = Annotated[str, typer.Option(help="per request: MEAN, or MEAN/P50/P95")]
OutputTokens = Annotated[str, typer.Option(help="per request: MEAN, or MEAN/P50/P95")]
Slo = Annotated[
    list[str] | None,
    typer.Option(
        help="targets: ttft=, tpot=, latency= (ms), throughput= (tokens/s), cost= ($/h), "
        "mtok= ($ per 1M output tokens); with commas, or repeat"
    ),
]
Percentile = Annotated[
    Literal["p50", "p95", "p99"], typer.Option(help="where ttft and latency of --slo are judged")
]
Prior = Annotated[bool, typer.Option("--prior", help="physics only, no trained model")]
Confidence = Annotated[float, typer.Option(min=0.5, max=0.99, help="of the intervals")]
Json = Annotated[bool, typer.Option("--json", help="short for --output json")]
Plot = Annotated[bool, typer.Option("--plot", help="the Pareto front, in the terminal")]
Png = Annotated[Path | None, typer.Option(help="the Pareto front, into this file")]
Save = Annotated[
    Path | None,
    typer.Option(help="the question, into a file that `foundry endpoints configure` takes"),
]

# One configuration, by flags.
Gpu = Annotated[str, typer.Option(metavar="ID", help="of `foundry budsim catalogue`")]
Runtime = Annotated[
    Literal["vllm", "sglang", "tensorrt-llm"], typer.Option(help="the engine that serves")
]
Tp = Annotated[int, typer.Option(min=1, max=64, help="tensor parallel size")]
Pp = Annotated[int, typer.Option(min=1, max=64, help="pipeline parallel size")]
Replicas = Annotated[int, typer.Option(min=1, max=1000, help="copies that share the load")]
MaxModelLen = Annotated[
    int | None,
    typer.Option(min=16, help="tokens of one request; default 8192, or the model's context"),
]
MaxNumSeqs = Annotated[int, typer.Option(min=1, max=65536, help="requests of one batch")]
MaxNumBatchedTokens = Annotated[int, typer.Option(min=16, help="tokens of one step")]
Quantization = Annotated[
    Literal["none", "fp8", "int8", "int4", "fp4"], typer.Option(help="of the weights")
]
KvDtype = Annotated[Literal["auto", "fp8"], typer.Option(help="of the KV cache")]

WORKLOAD = ("users", "rate", "input_tokens", "output_tokens")


def find_given(context: typer.Context) -> set[str]:
    """Names of the parameters that were typed."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {
        name for name, source in sources.items() if source is not None and source.name != "DEFAULT"
    }


def refuse_ignored(context: typer.Context, names: Collection[str], because: str) -> None:
    """Refuse parameters that nothing would read.

    Raises Conflict: one of these parameters was typed, and nothing would read it.

    Args:
        because: a clause about what decides instead.
    """
    ignored = find_given(context) & set(names)
    if ignored:
        flags = ", ".join(_list_flags(context, ignored))
        raise Conflict(f"{flags} would be ignored: {because}")


def choose_output(context: typer.Context, json: bool, output: Output) -> Output:
    """The format, of the two options that name one.

    Raises Conflict: `--json` and another format.
    """
    if json and output is not Output.JSON and "output" in find_given(context):
        raise Conflict(f"--json contradicts --output {output}: give one of them")
    return Output.JSON if json else output


def refuse_drawing(output: Output, plot: bool) -> None:
    """Refuse to draw where a document is asked for.

    Raises Conflict: a drawing among JSON is neither.
    """
    if plot and output is Output.JSON:
        raise Conflict("--plot draws on the terminal and would spoil the JSON: use --png FILE")


def _list_flags(context: typer.Context, names: Collection[str]) -> Iterable[str]:
    """Options as they are typed, in the order of the help."""
    for parameter in context.command.params:
        if parameter.name in names:
            yield parameter.opts[0]
