"""Fine-tune by hand: `ray job submit -- python -m workflows.train --base … --dataset … --name …`.

This process is the job's driver; in `foundry jobs list` the job is like any other. Outside of a
Ray job use `foundry train sft`.
"""

import argparse

from foundry.execution.jobs.schemas import JobOut
from foundry.sdk import Foundry, SftConfig
from workflows import submission

_RANK = 16


def arguments() -> argparse.ArgumentParser:
    parser = submission.arguments("workflows.train", "Fine-tune a registered model with LoRA.")
    parser.add_argument("--lora-rank", type=int, help=f"default {_RANK}")
    return parser


def config_of(options: submission.Options) -> SftConfig:
    """The configuration that the options and `--config` say.

    Raises:
        InvalidRequest: a field is wrong.
        Conflict: both say how to train.
    """
    said = options.config
    if options.lora_rank is not None or "method" not in said:
        rank = _RANK if options.lora_rank is None else options.lora_rank
        method = {"kind": "lora", "rank": rank, "alpha": 2 * rank}
        said = submission.join_fields({"method": method}, said)
    return submission.configured(SftConfig, said)


def submit(client: Foundry, options: submission.Options, submission_id: str) -> JobOut:
    return client.jobs.submit_sft(
        name=options.name,
        base=options.base,
        dataset=options.dataset,
        config=config_of(options),
        force=options.force,
        submission_id=submission_id,
    )


def main() -> None:
    submission.run(arguments(), submit, instead="foundry train sft")


if __name__ == "__main__":
    main()
