"""`foundry budsim`: what predictions came to, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from foundry.cli import session
from foundry.cli.console import (
    Output,
    OutputOption,
    activity,
    print_json,
    print_rows,
    stderr,
    stdout,
)
from foundry.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from foundry.sdk import Foundry
    from foundry.sdk.load_test import Level, Plan
    from foundry.serving.endpoints.schemas import EndpointOut
    from foundry.serving.outcomes.schemas import RecalibrationOut

Json = Annotated[bool, typer.Option("--json", help="the same as --output json")]
Endpoint = Annotated[str, typer.Argument(metavar="ENDPOINT", help="its name or id")]
Levels = Annotated[str, typer.Option(help="requests in flight, one level after the other")]
Requests = Annotated[int, typer.Option(min=5, max=10_000, help="measured at each level")]

_METRICS = (
    ("TTFT p50 ms", "ttft_p50_ms"),
    ("TTFT p95 ms", "ttft_p95_ms"),
    ("TPOT ms", "tpot_ms"),
    ("latency p95 ms", "latency_p95_ms"),
    ("output tokens/s", "throughput_tps"),
)


def register(app: typer.Typer) -> None:
    """Add this module's commands to `foundry budsim`."""
    for command, example in (
        (recalibrate, "foundry budsim recalibrate smollm2-135m --concurrency 1,4,8 --requests 32"),
        (outcomes, "foundry budsim outcomes --limit 20"),
        (advice, "foundry budsim advice"),
    ):
        app.command(epilog=f"Example: {example}")(command)


def recalibrate(
    endpoint: Annotated[
        str | None, typer.Argument(metavar="[ENDPOINT]", help="tested under load; its name or id")
    ] = None,
    concurrency: Levels = "1,4,8",
    requests: Requests = 32,
    input_tokens: Annotated[int, typer.Option(min=1, help="of each prompt, about")] = 128,
    output_tokens: Annotated[int, typer.Option(min=2, help="of each answer, about")] = 64,
    level_s: Annotated[float, typer.Option(min=1, help="a level ends after so long")] = 180.0,
    base_url: Annotated[
        str | None, typer.Option(help="of the server to load, up to /v1; default: the gateway")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="as the loaded server names it; default: the endpoint")
    ] = None,
    json: Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Correct predictions by what deployments did; with ENDPOINT, after a short load test of it."""
    from foundry.sdk.load_test import Plan

    with session.client() as client:
        if endpoint is None:
            _show(client.outcomes.recalibrate(), [], Output.JSON if json else output)
            return
        found = _endpoint(client, endpoint)
        plan = Plan(
            concurrency=_levels(concurrency),
            requests=requests,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            level_s=level_s,
        )
        levels = _loaded(plan, base_url, model or found.name)
        answer = client.outcomes.recalibrate(_load_test(found.id, levels))
    _show(answer, levels, Output.JSON if json else output)


def outcomes(
    endpoint: Annotated[str | None, typer.Option(help="only of this one; its name or id")] = None,
    limit: session.LimitOption = session.DEFAULT_LIMIT,
    json: Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what was predicted and what was measured, newest first; warns of stale predictions."""
    with session.client() as client:
        wanted = _endpoint(client, endpoint).id if endpoint else None
        rows = session.fetched(
            lambda cursor, size: client.outcomes.list(
                endpoint_id=wanted, cursor=cursor, limit=size
            ),
            limit,
        )
        newest = client.outcomes.list(limit=1)
    alarms = newest.staleness
    if json or output is Output.JSON:
        shown = {"staleness": session.records(alarms), "refit_due": newest.refit_due}
        print_json({"data": rows, **shown})
        return
    columns = ("started_at", "gpu", "engine_version", "n", "concurrency", "ttft_p50", "tpot")
    print_rows([_outcome(row) for row in rows], output, columns=columns, empty="no outcomes yet")
    for alarm in alarms:
        if alarm.stale:
            stderr().print(
                f"PredictionStale: {alarm.gpu}, {alarm.engine} {alarm.engine_version}: "
                f"{alarm.reason}; foundry budsim recalibrate ENDPOINT",
                style="yellow",
                markup=False,
            )
    if newest.refit_due:
        stderr().print("a refit is due: foundry budsim fit ./fitted --outcomes", markup=False)


def advice(
    limit: session.LimitOption = session.DEFAULT_LIMIT, output: OutputOption = Output.TABLE
) -> None:
    """List better configurations for running endpoints."""
    with session.client() as client:
        rows = session.fetched(
            lambda cursor, size: client.outcomes.advice(cursor=cursor, limit=size), limit
        )
    columns = ("endpoint_id", "reason", "saving", "recommendation_id", "created_at")
    print_rows(rows, output, columns=columns, empty="no endpoint would gain by a change")


def _levels(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidRequest(f"--concurrency {text!r}: give numbers like 1,4,8") from error


def _endpoint(client: Foundry, name: str) -> EndpointOut:
    from foundry.sdk import each

    try:
        return client.endpoints.get(UUID(name))
    except ValueError:
        for row in each(lambda cursor: client.endpoints.list(cursor=cursor, limit=200)):
            if row.name == name:
                return row
    raise NotFound(f"there is no endpoint {name}: `foundry endpoints list` shows yours")


def _loaded(plan: Plan, base_url: str | None, model: str) -> list[Level]:
    import asyncio

    import httpx

    from foundry.config import load_settings
    from foundry.sdk._connection import connection
    from foundry.sdk.load_test import LoadTest, by_error

    to = connection(load_settings(), base_url)
    headers = {"authorization": f"Bearer {to.api_key}"} if to.api_key else {}

    async def run() -> list[Level]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=f"{to.url}/v1/", headers=headers, timeout=plan.timeout_s, limits=limits
        ) as http:
            with activity(f"loading {model}") as say:
                return await LoadTest(http, model, plan).run(
                    lambda level: say(f"concurrency {level.concurrency} measured")
                )

    levels = asyncio.run(run())
    for message, count in by_error(levels).items():
        stderr().print(f"{count} requests failed: {message}", style="yellow", markup=False)
    return levels


def _load_test(endpoint_id: UUID, levels: Sequence[Level]) -> dict[str, object]:
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


def _show(answer: RecalibrationOut, levels: Sequence[Level], output: Output) -> None:
    if output is Output.JSON:
        print_json(answer.model_dump(mode="json"))
        return
    rows = [
        {
            "concurrency": round(row.concurrency, 1),
            "metric": title,
            "predicted": _interval(row.predicted[name]),
            "measured": row.actual[name],
            "error": f"{row.predicted[name][1] / row.actual[name] - 1:+.0%}",
            "inside": row.covered[name],
        }
        for row in answer.levels
        for title, name in _METRICS
        if name in row.predicted and name in row.actual
    ]
    if rows:
        print_rows(rows, output)
        saturated = [str(level.concurrency) for level in levels if level.saturated]
        if saturated:
            stdout().print(
                f"saturated at concurrency {', '.join(saturated)}: more clients only wait longer"
            )
    columns = ("gpu", "engine", "engine_version", "target", "factor", "spread", "windows")
    # Without a version it is the fallback for versions that were never measured.
    print_rows(
        [row for row in session.records(answer.biases) if row["engine_version"]],
        output,
        columns=columns,
        empty="no corrections: three windows of an accelerator and engine are needed",
    )


def _interval(ends: tuple[float, float, float]) -> str:
    low, point, high = ends
    return f"{point:.4g} ({low:.4g} to {high:.4g})"


def _outcome(row: Mapping[str, Any]) -> dict[str, object]:
    """The columns of the table: measured ÷ predicted, in one cell."""
    found = dict(row) | {"concurrency": round(row["load"]["concurrency"], 1)}
    for column, name in (("ttft_p50", "ttft_p50_ms"), ("tpot", "tpot_ms")):
        if name in row["predicted"] and name in row["actual"]:
            found[column] = f"{row['actual'][name]:.4g} of {row['predicted'][name][1]:.4g} ms"
    return found
