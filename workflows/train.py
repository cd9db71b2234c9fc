"""Fine-tune by hand: `ray job submit -- python -m workflows.train --base … --dataset … --name …`.

This process is the job's driver; in `foundry jobs list` the job is like any other. Outside of a
Ray job use `foundry train sft`.
"""

import argparse
import asyncio
import json
import logging
import sys

import ray
from pydantic import ValidationError

from foundry.config import Settings, load_settings, ray_submission_id
from foundry.errors import FoundryError, SetupError
from foundry.jobs.schemas import JobOut
from foundry.sdk import Foundry
from foundry.training.config import Lora, SftConfig
from foundry.workers.run import execute


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workflows.train", description="Fine-tune a registered model with LoRA."
    )
    parser.add_argument("--base", required=True, help="model to start from, like smollm2-135m")
    parser.add_argument("--dataset", required=True, help="dataset, like support or support@1")
    parser.add_argument("--name", required=True, help="model to create, like support-bot")
    parser.add_argument("--lora-rank", type=int, default=16)
    parser.add_argument(
        "--config", type=json.loads, default={}, help="further fields of SftConfig, as JSON"
    )
    parser.add_argument("--force", action="store_true", help="also if the same job has succeeded")
    return parser


def config_of(options: argparse.Namespace) -> SftConfig:
    """Raises SetupError: a field of `--config` is wrong."""
    method = Lora(rank=options.lora_rank, alpha=2 * options.lora_rank)
    try:
        return SftConfig.model_validate({"method": method.model_dump(), **options.config})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise SetupError(f"--config: {where}: {problem['msg']}") from error


def run(options: argparse.Namespace, settings: Settings) -> JobOut:
    """The ended job. Submitted through the API, so that quota, audit and checks are the usual.

    Raises:
        SetupError: this process is not the driver of a Ray job, or `--config` is wrong.
    """
    submission_id = ray_submission_id()
    if submission_id is None:
        raise SetupError(
            "this runs inside a Ray job: `ray job submit -- python -m workflows.train …`; "
            "from a shell use `foundry train sft`"
        )
    config = config_of(options)
    with Foundry.from_settings(settings) as client:
        job = client.jobs.submit_sft(
            name=options.name,
            base=options.base,
            dataset=options.dataset,
            config=config,
            force=options.force,
            submission_id=submission_id,
        )
        sys.stdout.write(f"job {job.id}\n")
        sys.stdout.flush()
        if job.submission_id == submission_id:
            ray.init(address="auto", logging_level=logging.WARNING)
            asyncio.run(execute(job.id, settings))
        return client.jobs.wait(job.id)


def main() -> None:
    options = arguments().parse_args()
    logging.basicConfig(level=logging.INFO)
    try:
        job = run(options, load_settings())
    except FoundryError as error:
        sys.exit(f"error: {error.message}")
    if job.state != "SUCCEEDED":
        sys.exit(f"job {job.id} is {job.state}: see `foundry jobs show {job.id}`")
    sys.stdout.write(f"{(job.result or {}).get('model')} is in the registry\n")


if __name__ == "__main__":
    main()
