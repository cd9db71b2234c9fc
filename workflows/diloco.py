"""DiLoCo by hand: `ray job submit -- python -m workflows.diloco --base … --dataset … --name …`.

This process is the job's driver; its workers are actors on the cluster's nodes. Outside of a Ray
job use `foundry train diloco`.
"""

import argparse

from foundry.execution.jobs.schemas import JobOut
from foundry.sdk import DilocoConfig, Foundry
from workflows import submission


def arguments() -> argparse.ArgumentParser:
    parser = submission.arguments(
        "workflows.diloco", "Fine-tune with workers that train apart and synchronise now and then."
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--inner-steps", type=int, default=100, help="between synchronisations")
    return parser


def config_of(options: submission.Options) -> DilocoConfig:
    """The defaults, with what the options say, with what `--config` says of its sections.

    Raises:
        SetupError: a field of `--config` is wrong.
    """
    document = DilocoConfig().model_dump()
    document["fleet"]["workers"] = options.workers
    document["outer"]["inner_steps"] = options.inner_steps
    for section, said in options.config.items():
        known = document.get(section, {})
        document[section] = known | said if isinstance(said, dict) else said
    return submission.configured(DilocoConfig, document)


def submit(client: Foundry, options: submission.Options, submission_id: str) -> JobOut:
    return client.jobs.submit_diloco(
        name=options.name,
        base=options.base,
        dataset=options.dataset,
        config=config_of(options),
        force=options.force,
        submission_id=submission_id,
    )


def main() -> None:
    submission.run(arguments(), submit, instead="foundry train diloco")


if __name__ == "__main__":
    main()
