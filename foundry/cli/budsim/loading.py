"""A load test of a served model, as a command runs and reports it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from foundry.cli.output.console import print_warning, show_activity

if TYPE_CHECKING:
    from foundry.errors import EngineFailed
    from foundry.sdk.load_test import Level, Plan


@dataclass(frozen=True, slots=True)
class Tested:
    """What a load test came to.

    Attributes:
        levels: those whose requests were answered; one whose survivors alone were measured is none.
        shortfall: why there are fewer than asked; None: there are not.
    """

    levels: list[Level]
    shortfall: EngineFailed | None


def run_load_test(plan: Plan, base_url: str | None, model: str) -> Tested:
    """Put load on a model, one level after the other.

    Raises EngineFailed: no level was measured.
    """
    import httpx

    from foundry.config import load_settings
    from foundry.sdk._connection import connection
    from foundry.sdk.load_test import LoadTest, by_error

    to = connection(load_settings(), base_url)
    headers = {"authorization": f"Bearer {to.api_key}"} if to.api_key else {}

    async def run() -> tuple[list[Level], EngineFailed | None]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=f"{to.url}/v1/", headers=headers, timeout=plan.timeout_s, limits=limits
        ) as http:
            test = LoadTest(http, model, plan)
            with show_activity(f"loading {model}") as say:
                levels = await test.run(
                    lambda level: say(f"concurrency {level.concurrency} measured")
                )
            return levels, test.shortfall

    found, shortfall = asyncio.run(run())
    for message, count in by_error(found).items():
        print_warning(f"requests that failed: {count}: {message}")
    levels = [level for level in found if not level.aborted]
    if not levels and shortfall is not None:
        raise shortfall
    return Tested(levels, shortfall)


def describe_test(endpoint_id: UUID, levels: Sequence[Level]) -> dict[str, object]:
    """A `LoadTestIn`."""
    return {
        "endpoint_id": endpoint_id,
        "levels": [
            {
                "started_at": level.started_at,
                "duration_s": level.duration_s,
                "errors": len(level.errors),
                "requests": [
                    {
                        "input_tokens": sample.input_tokens,
                        "output_tokens": sample.output_tokens,
                        "ttft_s": sample.ttft_s,
                        "duration_s": sample.duration_s,
                    }
                    for sample in level.samples
                ],
            }
            for level in levels
        ],
    }
