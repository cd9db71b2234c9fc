"""`foundry train`: fine-tuning."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from foundry.cli import session
from foundry.cli.advice import print_detached
from foundry.cli.help import examples
from foundry.cli.output.console import Output, OutputOption
from foundry.cli.train import options as opt

if TYPE_CHECKING:
    from foundry.execution.jobs.schemas import JobOut

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


@app.callback()
def _group() -> None:
    """Fine-tune a model."""


@app.command(epilog=_EXAMPLE)
def sft(
    base: opt.Base,
    dataset: opt.Dataset,
    name: opt.Name,
    method: opt.Method = "lora",
    lora_rank: opt.Rank = None,
    lora_alpha: opt.Alpha = None,
    lora_dropout: opt.Dropout = None,
    epochs: opt.Epochs = None,
    max_steps: opt.MaxSteps = None,
    batch_size: opt.Batch = None,
    micro_batch_size: opt.Micro = None,
    lr: opt.Rate = None,
    max_seq_len: opt.Length = None,
    too_long: opt.TooLong = None,
    packing: opt.Packing = None,
    schedule: opt.Schedule = None,
    warmup_ratio: opt.Warmup = None,
    weight_decay: opt.Decay = None,
    grad_clip: opt.Clip = None,
    precision: opt.Precision = None,
    activation_checkpointing: opt.Recompute = None,
    seed: opt.Seed = None,
    checkpoint_every: opt.Every = None,
    eval_every: opt.Every = None,
    log_every: opt.Every = None,
    force: opt.Force = False,
    priority: opt.Priority = 0,
    detach: opt.Detach = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Fine-tune a model on a dataset, and follow the job. Ctrl-C leaves it running."""
    given = dict(locals())
    config = opt.sft_config(given)
    _submit(
        given,
        lambda client, *to: client.jobs.submit_sft(*to, config, force=force, priority=priority),
    )


@app.command(epilog=_DILOCO_EXAMPLE)
def diloco(
    base: opt.Base,
    dataset: opt.Dataset,
    name: opt.Name,
    workers: opt.Workers = None,
    inner_steps: opt.InnerSteps = None,
    codec: opt.CodecKind = None,
    density: opt.Density = None,
    outer_lr: opt.OuterRate = None,
    outer_momentum: opt.OuterMomentum = None,
    exchange: opt.Exchange = None,
    fragments: opt.Fragments = None,
    overlap: opt.Overlap = None,
    mixing: opt.Mixing = None,
    quorum: opt.Quorum = None,
    grace_s: opt.Grace = None,
    silence_s: opt.Silence = None,
    stall_s: opt.Stall = None,
    link_mbit_s: opt.Link = None,
    checkpoint_every: opt.CheckpointRounds = None,
    method: opt.Method = "full",
    lora_rank: opt.Rank = None,
    lora_alpha: opt.Alpha = None,
    lora_dropout: opt.Dropout = None,
    epochs: opt.Epochs = None,
    max_steps: opt.MaxSteps = None,
    batch_size: opt.Batch = None,
    micro_batch_size: opt.Micro = None,
    lr: opt.Rate = None,
    max_seq_len: opt.Length = None,
    too_long: opt.TooLong = None,
    packing: opt.Packing = None,
    schedule: opt.Schedule = None,
    warmup_ratio: opt.Warmup = None,
    weight_decay: opt.Decay = None,
    grad_clip: opt.Clip = None,
    precision: opt.Precision = None,
    activation_checkpointing: opt.Recompute = None,
    seed: opt.Seed = None,
    eval_every: opt.Every = None,
    force: opt.Force = False,
    priority: opt.Priority = 0,
    detach: opt.Detach = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Fine-tune with workers that train apart and synchronise now and then, over slow links too.

    Follows the job; Ctrl-C leaves it running. See `foundry jobs rounds` and `foundry jobs members`.
    """
    given = dict(locals())
    config = opt.diloco_config(given)
    _submit(
        given,
        lambda client, *to: client.jobs.submit_diloco(*to, config, force=force, priority=priority),
    )


def _submit(given: dict[str, Any], submit: Callable[..., "JobOut"]) -> None:
    """Submit and follow.

    Args:
        submit: takes the client, the name, the base and the dataset.
    """
    from foundry.cli.jobs.following import follow

    with session.client() as client:
        job = submit(client, given["name"], given["base"], given["dataset"])
        if given["detach"]:
            print_detached(job, given["output"])
            return
        follow(client, job, given["output"])
