"""Jobs submitted by hand: the Ray job that asks for the training is its driver."""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import ray
from pydantic import BaseModel, ValidationError

from foundry.cli.output.console import choose_exit_code, print_error
from foundry.config import Settings, load_settings, ray_submission_id
from foundry.errors import Conflict, FoundryError, InvalidRequest, SetupError
from foundry.execution.jobs.schemas import JobOut
from foundry.execution.workers.run import run_job
from foundry.infra.logs import configure_logging
from foundry.sdk import Foundry
from foundry.validation import describe_problem

Options = argparse.Namespace
Submit = Callable[[Foundry, Options, str], JobOut]
Model = TypeVar("Model", bound=BaseModel)


def arguments(program: str, description: str) -> argparse.ArgumentParser:
    """What every training is told."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--base", required=True, help="model to start from, like smollm2-135m")
    parser.add_argument("--dataset", required=True, help="dataset, like support or support@1")
    parser.add_argument("--name", required=True, help="model to create, like support-bot")
    parser.add_argument(
        "--config", type=_fields, default={}, help="further fields of the configuration, as JSON"
    )
    parser.add_argument("--force", action="store_true", help="also if the same job has succeeded")
    return parser


def join_fields(options: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that options of their own say, and those of `--config`.

    Args:
        options: by option; a nested field's is in its section.
    Raises:
        Conflict: both say the same field.
    """
    joined: dict[str, Any] = dict(config)
    for section, said in options.items():
        given = config.get(section)
        if given is None:
            joined[section] = said
            continue
        if isinstance(said, dict) and isinstance(given, dict) and not said.keys() & given.keys():
            joined[section] = said | given
            continue
        twice = sorted(said.keys() & given.keys()) if isinstance(given, dict) else []
        field = ".".join([section, *twice[:1]])
        raise Conflict(f"--config says {field}, and an option says it too: leave one of them out")
    return joined


def configured(model: type[Model], document: Mapping[str, Any]) -> Model:
    """Validate what `--config` holds.

    Raises:
        InvalidRequest: it names the field that is wrong.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        _, text = describe_problem(error.errors(), document)
        raise InvalidRequest(f"--config: {text}") from error


def run(parser: argparse.ArgumentParser, submit: Submit, instead: str) -> None:
    """Submit what the command line asks for, train it here, and say what came of it.

    Args:
        submit: submits through the API, so that quota, audit and checks are the usual.
        instead: the command that does the same from a shell.
    """
    options = parser.parse_args()
    configure_logging()
    try:
        job = _drive(options, submit, load_settings(), _submission_id(parser.prog, instead))
    except FoundryError as error:
        print_error(error.message)
        sys.exit(choose_exit_code(error))
    if job.state != "SUCCEEDED":
        sys.exit(f"job {job.id} is {job.state}: see `foundry jobs show {job.id}`")
    sys.stdout.write(f"{(job.result or {}).get('model')} is in the registry\n")


def _fields(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _submission_id(program: str, instead: str) -> str:
    """The Ray job whose driver this is.

    Raises:
        SetupError: this process is the driver of none.
    """
    found = ray_submission_id()
    if found is None:
        raise SetupError(
            f"this runs inside a Ray job: `ray job submit -- {program} …`; from a shell use "
            f"`{instead}`"
        )
    return found


def _drive(options: Options, submit: Submit, settings: Settings, submission_id: str) -> JobOut:
    """The ended job."""
    with Foundry.from_settings(settings) as client:
        job = submit(client, options, submission_id)
        sys.stdout.write(f"job {job.id}\n" if job.note is None else f"{job.note}\n")
        sys.stdout.flush()
        if job.submission_id == submission_id:
            ray.init(address="auto", logging_level=logging.WARNING)
            asyncio.run(run_job(job.id, settings))
        return client.jobs.wait(job.id)
