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
    parser.add_argument("--workers", type=int, help="default 2")
    parser.add_argument("--inner-steps", type=int, help="between synchronisations; default 100")
    return parser


def config_of(options: submission.Options) -> DilocoConfig:
    """The defaults, with what the options say, with what `--config` says of its sections.

    Raises:
        InvalidRequest: a field is wrong.
        Conflict: an option and `--config` say the same.
    """
    said: dict[str, dict[str, object]] = {}
    if options.workers is not None:
        said["fleet"] = {"workers": options.workers}
    if options.inner_steps is not None:
        said["outer"] = {"inner_steps": options.inner_steps}
    return submission.configured(DilocoConfig, submission.join_fields(said, options.config))


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
