"""What predictions came to, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foundry.cli import session
from foundry.cli.budsim import loading, options
from foundry.cli.budsim.predictors import advise_refit
from foundry.cli.output.console import (
    Output,
    OutputOption,
    print_json,
    print_next,
    print_note,
    print_rows,
    print_warning,
    stdout,
)
from foundry.cli.suggestions import suggest_endpoints
from foundry.errors import Conflict, InvalidRequest

if TYPE_CHECKING:
    from foundry.sdk.load_test import Level
    from foundry.sdk.outcomes import OutcomePage
    from foundry.serving.endpoints.schemas import EndpointOut
    from foundry.serving.outcomes.schemas import RecalibrationOut, StalenessOut

Levels = Annotated[str, typer.Option(help="requests in flight, one level after the other")]
Requests = Annotated[int, typer.Option(min=5, max=10_000, help="measured at each level")]

_LOAD_TEST = (
    "concurrency",
    "requests",
    "input_tokens",
    "output_tokens",
    "level_s",
    "base_url",
    "model",
)
_METRICS = (
    ("TTFT p50, ms", "ttft_p50_ms"),
    ("TTFT p95, ms", "ttft_p95_ms"),
    ("TPOT, ms", "tpot_ms"),
    ("latency p95, ms", "latency_p95_ms"),
    ("output tokens/s", "throughput_tps"),
)
_TEACH = "`foundry budsim recalibrate ENDPOINT` measures a window at each concurrency"


def recalibrate(
    context: typer.Context,
    endpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="[ENDPOINT]",
            help="tested under load; its name, or id or a beginning of it",
            autocompletion=suggest_endpoints,
        ),
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
    json: options.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Correct predictions by what deployments did; with ENDPOINT, after a short load test of it."""
    from foundry.sdk.load_test import Plan

    shown = options.choose_output(context, json, output)
    if endpoint is None:
        options.refuse_ignored(context, _LOAD_TEST, "no ENDPOINT is named, so nothing is tested")
        with session.client() as client:
            _print_recalibration(client.outcomes.recalibrate(), [], shown)
        return
    plan = Plan(
        concurrency=_parse_levels(concurrency),
        requests=requests,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        level_s=level_s,
    )
    with session.client() as client:
        found = client.endpoints.get(endpoint)
        _require_serving(found)
        tested = loading.run_load_test(plan, base_url, model or found.name)
        answer = client.outcomes.recalibrate(loading.describe_test(found.id, tested.levels))
    _print_recalibration(answer, tested.levels, shown)
    if tested.shortfall is not None:
        raise tested.shortfall


def outcomes(
    context: typer.Context,
    endpoint: Annotated[
        str | None,
        typer.Option(help="only of this one; its name or id", autocompletion=suggest_endpoints),
    ] = None,
    limit: session.LimitOption = session.DEFAULT_LIMIT,
    json: options.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what was predicted and what was measured, newest first; warns of stale predictions."""
    shown = options.choose_output(context, json, output)
    with session.client() as client:
        wanted = client.endpoints.get(endpoint).id if endpoint else None
        rows = session.fetch_rows(
            client.outcomes.list(endpoint_id=wanted, limit=session.choose_page_size(limit)), limit
        )
        newest = client.outcomes.list(limit=1)
    if shown is Output.JSON:
        state = {"staleness": session.records(newest.staleness), "refit_due": newest.refit_due}
        print_json({"data": rows, **state})
        return
    columns = (
        "started_at",
        "requests",
        "in flight",
        "TTFT p50, ms",
        "TPOT, ms",
        "gpu",
        "engine_version",
        "source",
    )
    whose = f" of {endpoint}" if endpoint else ""
    teach = _TEACH.replace("ENDPOINT", endpoint or "ENDPOINT")
    empty = f"no outcomes{whose} yet: {teach}, or wait for traffic"
    for row in rows:
        row |= _tabulate_outcome(row)
    print_rows(rows, shown, columns=columns, empty=empty)
    if rows:
        print_note("TTFT and TPOT: measured / predicted")
    _warn_of_stale(newest, rows)


def advice(
    limit: session.LimitOption = session.DEFAULT_LIMIT, output: OutputOption = Output.TABLE
) -> None:
    """List better configurations for running endpoints."""
    with session.client() as client:
        rows = session.fetch_rows(
            client.outcomes.advice(limit=session.choose_page_size(limit)), limit
        )
    columns = ("endpoint_id", "saving", "reason", "created_at", "recommendation_id")
    if output is Output.TABLE:
        for row in rows:
            row["saving"] = _write_share(row["saving"])
    print_rows(rows, output, columns=columns, empty="no endpoint would gain by a change")
    ids = [row["recommendation_id"] for row in rows if row["recommendation_id"] is not None]
    print_next(*(f"foundry budsim explain {one}" for one in ids), output=output)


def _parse_levels(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InvalidRequest(f"--concurrency {text}: give numbers like 1,4,8") from error


def _require_serving(endpoint: EndpointOut) -> None:
    """Refuse to load an endpoint that answers nobody.

    Raises Conflict: it answers no requests; says what starts it.
    """
    from foundry.serving.endpoints.schemas import SERVING, deploy_command

    if endpoint.state in SERVING:
        return
    raise Conflict(
        f"endpoint {endpoint.name} does not answer requests ({endpoint.state.lower()}): "
        f"`{deploy_command(endpoint.name, endpoint.model)}` starts it and waits"
    )


def _print_recalibration(answer: RecalibrationOut, levels: Sequence[Level], output: Output) -> None:
    if output is Output.JSON:
        print_json(answer.model_dump(mode="json"))
        return
    rows = [
        {
            "in flight": round(row.concurrency, 1),
            "metric": title,
            "predicted": _write_interval(row.predicted[name]),
            "measured": f"{row.actual[name]:.4g}",
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
    columns = ("gpu", "target", "factor", "windows", "engine", "engine_version", "spread")
    # Without a version it is the fallback for versions that were never measured.
    print_rows(
        [row for row in session.records(answer.biases) if row["engine_version"]],
        output,
        columns=columns,
        empty="no corrections: three windows of an accelerator and engine are needed; " + _TEACH,
    )


def _warn_of_stale(found: OutcomePage, rows: Sequence[Mapping[str, Any]]) -> None:
    """Warn of predictions that no longer hold, and of a refit that is due."""
    for alarm in found.staleness:
        if alarm.stale:
            print_warning(
                f"PredictionStale: {alarm.gpu}, {alarm.engine} {alarm.engine_version}: "
                f"{alarm.reason}; foundry budsim recalibrate {_choose_endpoint(alarm, rows)}"
            )
    if found.refit_due:
        print_warning(f"a refit is due: {advise_refit()}")


def _choose_endpoint(alarm: StalenessOut, rows: Sequence[Mapping[str, Any]]) -> str:
    """The one measured last on the accelerator and engine of an alarm."""
    pair = (alarm.gpu, alarm.engine, alarm.engine_version)
    for row in rows:
        if (row["gpu"], row["engine"], row["engine_version"]) == pair:
            return str(row["endpoint_id"])
    return "ENDPOINT"


def _tabulate_outcome(row: Mapping[str, Any]) -> dict[str, object]:
    """The columns of the table: measured and predicted in one cell."""
    found: dict[str, object] = {
        "requests": row["n"],
        "in flight": round(row["load"]["concurrency"], 1),
    }
    for column, name in (("TTFT p50, ms", "ttft_p50_ms"), ("TPOT, ms", "tpot_ms")):
        if name in row["predicted"] and name in row["actual"]:
            found[column] = f"{row['actual'][name]:.4g} / {row['predicted'][name][1]:.4g}"
    return found


def _write_interval(ends: tuple[float, float, float]) -> str:
    low, point, high = ends
    return f"{point:.4g} ({low:.4g} to {high:.4g})"


def _write_share(share: object) -> str:
    return f"{share:.0%}" if isinstance(share, float | int) else "-"
