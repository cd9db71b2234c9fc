"""Fine-tune by hand: `ray job submit -- python -m workflows.train --base … --dataset … --name …`.

Inside a Ray job this process is the driver itself; the job is in `foundry jobs list` like any
other. Outside of one use `foundry train sft`.
"""

import argparse
import asyncio
import json
import logging
import sys
from uuid import UUID

import ray

from foundry.config import Settings, load_settings
from foundry.errors import FoundryError
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
    return parser


def submit(options: argparse.Namespace, settings: Settings) -> UUID:
    """Register the job through the API, so that quota, audit and checks are the usual ones."""
    method = Lora(rank=options.lora_rank, alpha=2 * options.lora_rank)
    config = SftConfig.model_validate({"method": method.model_dump(), **options.config})
    with Foundry.from_settings(settings) as client:
        job = client.jobs.submit_sft(
            name=options.name, base=options.base, dataset=options.dataset, config=config
        )
    return job.id


def main() -> None:
    options = arguments().parse_args()
    logging.basicConfig(level=logging.INFO)
    settings = load_settings()
    try:
        job_id = submit(options, settings)
        sys.stdout.write(f"job {job_id}\n")
        ray.init(address="auto", logging_level=logging.WARNING)
        succeeded = asyncio.run(execute(job_id, settings))
    except FoundryError as error:
        sys.exit(error.message)
    sys.exit(0 if succeeded else f"job {job_id} failed: see `foundry jobs show {job_id}`")


if __name__ == "__main__":
    main()
