"""Fine-tune by hand: `ray job submit -- python -m workflows.train --base … --dataset … --name …`.

This process is the job's driver; in `foundry jobs list` the job is like any other. Outside of a
Ray job use `foundry train sft`.
"""

import argparse

from foundry.execution.jobs.schemas import JobOut
from foundry.sdk import Foundry, Lora, SftConfig
from workflows import submission


def arguments() -> argparse.ArgumentParser:
    parser = submission.arguments("workflows.train", "Fine-tune a registered model with LoRA.")
    parser.add_argument("--lora-rank", type=int, default=16)
    return parser


def config_of(options: submission.Options) -> SftConfig:
    """Raises SetupError: a field of `--config` is wrong."""
    method = Lora(rank=options.lora_rank, alpha=2 * options.lora_rank)
    return submission.configured(SftConfig, {"method": method.model_dump(), **options.config})


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
