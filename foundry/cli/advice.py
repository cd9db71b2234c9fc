"""What a command tells beside its result: what was so already, and what to type next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry.cli.output.console import Output, print_next, print_record, print_warning
from foundry.errors import FoundryError

if TYPE_CHECKING:
    from foundry.execution.jobs.schemas import JobOut
    from foundry.sdk import Foundry
    from foundry.serving.endpoints.schemas import EndpointOut


def print_already(answer: JobOut | EndpointOut) -> None:
    """Say on standard error what the request has found to be so already."""
    if answer.note is not None:
        print_warning(answer.note)


def print_detached(job: JobOut, output: Output) -> None:
    """Say which job goes on without its command, and how to follow it; a program is told all."""
    print_already(job)
    if output is Output.JSON:
        print_record(job.model_dump(mode="json"), output)
        return
    print_record({"id": str(job.id)}, output)
    print_next(f"foundry jobs watch {job.id}", output=output)


def print_next_step(client: Foundry, job: JobOut) -> None:
    """Say how to use what a job has made: an adapter of a base that runs needs no deploy."""
    made = (job.result or {}).get("model")
    base_id = job.spec.get("base_version_id")
    if made is None:
        return
    answers = _makes_adapter(job) and _is_served(client, str(base_id))
    step = f'foundry chat {made} "Hello"' if answers else f"foundry deploy {made}"
    print_next(step, output=Output.TABLE)


def _makes_adapter(job: JobOut) -> bool:
    if job.kind == "import":
        # Only an adapter has a base.
        return "base_version_id" in job.spec
    config = job.spec.get("config")
    inner = config.get("inner", config) if isinstance(config, dict) else {}
    method = inner.get("method") if isinstance(inner, dict) else None
    return isinstance(method, dict) and method.get("kind") == "lora"


def _is_served(client: Foundry, base_id: str) -> bool:
    """Whether an endpoint of the base answers; a key that may not look is told to deploy."""
    from foundry.serving.endpoints.schemas import SERVING

    try:
        return any(
            str(endpoint.model_version_id) == base_id and endpoint.state in SERVING
            for endpoint in client.endpoints.list(limit=200)
        )
    except FoundryError:
        return False
