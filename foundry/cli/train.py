"""`foundry train`: fine-tuning."""

from typing import Annotated, Any, Literal

import typer

from foundry.cli import session
from foundry.cli.console import Output, OutputOption, print_record

app = typer.Typer(add_completion=False, no_args_is_help=True)

_EXAMPLE = (
    "Example: foundry train sft --base smollm2-135m --dataset support@1 --name support-bot "
    "--epochs 3 --lr 2e-4"
)
Flag = bool | None
Base = Annotated[str, typer.Option(help="the model to start from: name, name@alias, name@1.2.3")]
Dataset = Annotated[str, typer.Option(help="name or name@number")]
Name = Annotated[str, typer.Option(help="the model that gets a new version")]
Method = Annotated[Literal["lora", "full"], typer.Option(help="an adapter, or every weight")]
Rank = Annotated[int | None, typer.Option(help="of the adapter; default 16")]
Alpha = Annotated[int | None, typer.Option(help="the update is scaled by alpha/rank; default 32")]
Dropout = Annotated[float | None, typer.Option(help="default 0")]
Epochs = Annotated[int | None, typer.Option(help="default 3")]
MaxSteps = Annotated[int | None, typer.Option(help="overrides --epochs")]
Batch = Annotated[int | None, typer.Option(help="sequences per optimiser step; default 8")]
Micro = Annotated[int | None, typer.Option(help="sequences held in memory at once")]
Rate = Annotated[float | None, typer.Option(help="learning rate; default 2e-4")]
Length = Annotated[int | None, typer.Option(help="tokens; default 1024")]
TooLong = Annotated[
    Literal["error", "drop", "truncate"] | None, typer.Option(help="what to do with longer rows")
]
Packing = Annotated[
    Flag, typer.Option("--packing/--no-packing", help="fill sequences; default: no")
]
Schedule = Annotated[Literal["cosine", "linear", "constant"] | None, typer.Option()]
Warmup = Annotated[float | None, typer.Option(help="share of the steps; default 0.03")]
Decay = Annotated[float | None, typer.Option(help="default 0")]
Clip = Annotated[float | None, typer.Option(help="maximum gradient norm; 0: off; default 1")]
Precision = Annotated[Literal["float32", "bfloat16"] | None, typer.Option()]
Recompute = Annotated[
    Flag,
    typer.Option(
        "--activation-checkpointing/--no-activation-checkpointing",
        help="less memory, a third more time",
    ),
]
Seed = Annotated[int | None, typer.Option(help="default 0")]
Every = Annotated[int | None, typer.Option(help="optimiser steps")]
Force = Annotated[bool, typer.Option("--force", help="train again what was trained already")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="submit and return")]


@app.callback()
def _group() -> None:
    """Fine-tune a model."""


@app.command(epilog=_EXAMPLE)
def sft(
    base: Base,
    dataset: Dataset,
    name: Name,
    method: Method = "lora",
    lora_rank: Rank = None,
    lora_alpha: Alpha = None,
    lora_dropout: Dropout = None,
    epochs: Epochs = None,
    max_steps: MaxSteps = None,
    batch_size: Batch = None,
    micro_batch_size: Micro = None,
    lr: Rate = None,
    max_seq_len: Length = None,
    too_long: TooLong = None,
    packing: Packing = None,
    schedule: Schedule = None,
    warmup_ratio: Warmup = None,
    weight_decay: Decay = None,
    grad_clip: Clip = None,
    precision: Precision = None,
    activation_checkpointing: Recompute = None,
    seed: Seed = None,
    checkpoint_every: Every = None,
    eval_every: Every = None,
    log_every: Every = None,
    force: Force = False,
    detach: Detach = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Fine-tune a model on a dataset, and follow the job. Ctrl-C leaves it running."""
    _submit(dict(locals()))


def _submit(given: dict[str, Any]) -> None:
    from foundry.cli.following import follow

    with session.client() as client:
        job = client.jobs.submit_sft(
            given.pop("name"),
            given.pop("base"),
            given.pop("dataset"),
            _config(given),
            force=given["force"],
        )
        if given["detach"]:
            print_record(session.record(job), given["output"])
            return
        follow(client, job, given["output"])


def _config(given: dict[str, Any]) -> Any:
    """The configuration with what was given; the rest keeps its own defaults.

    Raises:
        InvalidRequest: names the option that is out of range.
    """
    from pydantic import ValidationError

    from foundry.errors import InvalidRequest
    from foundry.sdk import SftConfig

    said = {name: value for name, value in given.items() if value is not None}
    method = {"kind": said["method"]} | {
        name.removeprefix("lora_"): value
        for name, value in said.items()
        if name.startswith("lora_")
    }
    fields = {name: value for name, value in said.items() if name in SftConfig.model_fields}
    if "batch_size" in fields and "micro_batch_size" not in fields:
        default = SftConfig.model_fields["micro_batch_size"].default
        fields["micro_batch_size"] = min(default, fields["batch_size"])
    try:
        return SftConfig.model_validate(fields | {"method": method})
    except ValidationError as error:
        problem = error.errors()[0]
        # The method's tag stands between `method` and its field.
        parts = [str(part) for part in problem["loc"] if part not in ("method", "full")]
        option = "--" + "-".join(parts).replace("_", "-")
        raise InvalidRequest(f"{option if parts else 'options'}: {problem['msg']}") from error
