"""`foundry train`: fine-tuning."""

from typing import TYPE_CHECKING, Any

import typer

from foundry.cli import session
from foundry.cli.advice import print_detached
from foundry.cli.help import examples
from foundry.cli.option_groups import add_options
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


# Every option stands once: its name → its type.
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
    "lora_rank": opt.Rank,
    "lora_alpha": opt.Alpha,
    "lora_dropout": opt.Dropout,
    "lora_targets": opt.Targets,
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
    "activation_budget": opt.Budget,
    "optimiser": opt.Optimiser,
    "offload": opt.Offload,
    "seed": opt.Seed,
    "eval_every": opt.Every,
}
_STEPS = {"checkpoint_every": opt.Every, "log_every": opt.Every}


@app.callback()
def _group() -> None:
    """Fine-tune a model."""


@app.command(epilog=_EXAMPLE)
@add_options(_TRAINING, _STEPS, before="force")
def sft(
    base: opt.Base,
    dataset: opt.Dataset,
    name: opt.Name,
    method: opt.Method = "lora",
    force: opt.Force = False,
    priority: opt.Priority = 0,
    detach: opt.Detach = False,
    output: OutputOption = Output.TABLE,
    **training: Any,
) -> None:
    """Fine-tune a model on a dataset, and follow the job. Ctrl-C leaves it running."""
    config = opt.build_sft_config({"method": method, **training})
    with session.client() as client:
        job = client.jobs.submit_sft(name, base, dataset, config, force=force, priority=priority)
        _follow_unless_detached(client, job, detach, output)


@app.command(epilog=_DILOCO_EXAMPLE)
@add_options(_FLEET, _TRAINING, before="force")
def diloco(
    base: opt.Base,
    dataset: opt.Dataset,
    name: opt.Name,
    method: opt.Method = "full",
    force: opt.Force = False,
    priority: opt.Priority = 0,
    detach: opt.Detach = False,
    output: OutputOption = Output.TABLE,
    **training: Any,
) -> None:
    """Fine-tune with workers that train apart and synchronise now and then, over slow links too.

    Follows the job; Ctrl-C leaves it running. See `foundry jobs rounds` and `foundry jobs members`.
    """
    config = opt.build_diloco_config({"method": method, **training})
    with session.client() as client:
        job = client.jobs.submit_diloco(name, base, dataset, config, force=force, priority=priority)
        _follow_unless_detached(client, job, detach, output)


def _follow_unless_detached(client: "Foundry", job: "JobOut", detach: bool, output: Output) -> None:
    from foundry.cli.jobs.following import follow_job

    if detach:
        print_detached(job, output)
    else:
        follow_job(client, job, output)
