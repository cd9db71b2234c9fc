"""`foundry train`: fine-tuning."""

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import typer

from foundry.cli import session
from foundry.cli.advice import print_detached
from foundry.cli.help import examples
from foundry.cli.output.console import Output, OutputOption
from foundry.cli.train import options as opt

if TYPE_CHECKING:
    from foundry.execution.jobs.schemas import JobOut
    from foundry.sdk import Foundry

app = typer.Typer(add_completion=False, no_args_is_help=True)

_EXAMPLE = examples(
    "foundry train sft --base smollm2-135m --dataset support@1 --name my-bot --epochs 1",
    "foundry train sft --base smollm2-135m --dataset support --name my-bot --max-steps 50 "
    "--lora-rank 8 --lr 1e-3 --detach",
)
_DILOCO_EXAMPLE = examples(
    "foundry train diloco --base smollm2-135m --dataset support@1 --name my-team --method lora "
    "--workers 2 --inner-steps 10 --codec topk --max-steps 40",
)


# Every option stands once: its name → its type. All but the first three may be left out.
_REQUIRED = {"base": opt.Base, "dataset": opt.Dataset, "name": opt.Name}
_FLEET = {
    "workers": opt.Workers,
    "inner_steps": opt.InnerSteps,
    "codec": opt.CodecKind,
    "density": opt.Density,
    "outer_lr": opt.OuterRate,
    "outer_momentum": opt.OuterMomentum,
    "exchange": opt.Exchange,
    "fragments": opt.Fragments,
    "overlap": opt.Overlap,
    "mixing": opt.Mixing,
    "quorum": opt.Quorum,
    "grace_s": opt.Grace,
    "silence_s": opt.Silence,
    "stall_s": opt.Stall,
    "link_mbit_s": opt.Link,
    "checkpoint_every": opt.CheckpointRounds,
}
_TRAINING = {
    "method": opt.Method,
    "lora_rank": opt.Rank,
    "lora_alpha": opt.Alpha,
    "lora_dropout": opt.Dropout,
    "epochs": opt.Epochs,
    "max_steps": opt.MaxSteps,
    "batch_size": opt.Batch,
    "micro_batch_size": opt.Micro,
    "lr": opt.Rate,
    "max_seq_len": opt.Length,
    "too_long": opt.TooLong,
    "packing": opt.Packing,
    "schedule": opt.Schedule,
    "warmup_ratio": opt.Warmup,
    "weight_decay": opt.Decay,
    "grad_clip": opt.Clip,
    "precision": opt.Precision,
    "activation_checkpointing": opt.Recompute,
    "seed": opt.Seed,
    "eval_every": opt.Every,
}
_STEPS = {"checkpoint_every": opt.Every, "log_every": opt.Every}
_SUBMISSION = {
    "force": opt.Force,
    "priority": opt.Priority,
    "detach": opt.Detach,
    "output": OutputOption,
}
_DEFAULTS = {"force": False, "priority": 0, "detach": False, "output": Output.TABLE}

Command = Callable[..., None]


def _take_options(*groups: Mapping[str, Any], method: str) -> Callable[[Command], Command]:
    """Give a command of keyword arguments these options: Typer reads them off its signature.

    Args:
        method: the default of `--method`.
    """
    defaults = _DEFAULTS | {"method": method} | dict.fromkeys(_REQUIRED, inspect.Parameter.empty)
    parameters = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=option, default=defaults.get(name)
        )
        for group in groups
        for name, option in group.items()
    ]

    def sign(command: Command) -> Command:
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return sign


@app.callback()
def _group() -> None:
    """Fine-tune a model."""


@app.command(epilog=_EXAMPLE)
@_take_options(_REQUIRED, _TRAINING, _STEPS, _SUBMISSION, method="lora")
def sft(**given: Any) -> None:
    """Fine-tune a model on a dataset, and follow the job. Ctrl-C leaves it running."""
    config = opt.build_sft_config(given)
    _submit(given, lambda client: client.jobs.submit_sft, config)


@app.command(epilog=_DILOCO_EXAMPLE)
@_take_options(_REQUIRED, _FLEET, _TRAINING, _SUBMISSION, method="full")
def diloco(**given: Any) -> None:
    """Fine-tune with workers that train apart and synchronise now and then, over slow links too.

    Follows the job; Ctrl-C leaves it running. See `foundry jobs rounds` and `foundry jobs members`.
    """
    config = opt.build_diloco_config(given)
    _submit(given, lambda client: client.jobs.submit_diloco, config)


def _submit(
    given: Mapping[str, Any], choose: Callable[["Foundry"], Callable[..., "JobOut"]], config: object
) -> None:
    """Submit a training and follow its job.

    Args:
        choose: the client's method for this kind.
    """
    from foundry.cli.jobs.following import follow

    with session.client() as client:
        job = choose(client)(
            given["name"],
            given["base"],
            given["dataset"],
            config,
            force=given["force"],
            priority=given["priority"],
        )
        if given["detach"]:
            print_detached(job, given["output"])
            return
        follow(client, job, given["output"])
