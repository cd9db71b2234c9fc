"""Accelerators: what budsim knows of them, what they cost here, what a node attains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from foundry.cli import session
from foundry.cli.budsim import answering, inputs, options
from foundry.cli.budsim.tables import write_number
from foundry.cli.output.console import (
    Output,
    OutputOption,
    print_json,
    print_next,
    print_record,
    show_activity,
    show_columns,
)
from foundry.cli.output.tables import Column

# Field → heading with its unit.
_CATALOGUE = {
    "memory_gb": "memory\nGB",
    "bandwidth_gbps": "memory\nGB/s",
    "bf16_tflops": "bf16\nTFLOPS",
    "fp8_tflops": "fp8\nTFLOPS",
    "price_per_hour": "$ per\nhour",
}
_MEASURED = {
    "memory_gb": "memory, GB",
    "bandwidth_gbps": "memory bandwidth, GB/s",
    "bf16_tflops": "bf16, TFLOPS",
    "fp16_tflops": "fp16, TFLOPS",
    "int8_tops": "int8, TOPS",
}


def catalogue(
    context: typer.Context,
    offline: Annotated[bool, typer.Option("--offline", help="as shipped; needs no server")] = False,
    json: options.Json = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the accelerators that budsim knows, and their prices."""
    shown = options.choose_output(context, json, output)
    found = answering.list_hardware(offline)
    if shown is Output.JSON:
        print_json(found)
        return
    rows = found["data"]
    columns = [Column("id", tuple(str(row["id"]) for row in rows), keep=9, words=True)]
    for name, title in _CATALOGUE.items():
        columns.append(Column(title, tuple(_write_cell(name, row) for row in rows)))
    show_columns(columns)


def prices(
    changes: Annotated[list[str], typer.Argument(help="GPU=PRICE in $ per hour; GPU= undoes")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Set what a GPU costs per hour, for the whole tenant."""
    with session.client() as client:
        row = session.record(client.budsim.set_prices(inputs.parse_prices(changes)))
    if output is Output.JSON:
        print_json(row)
        return
    own: Mapping[str, Any] = row.pop("prices")  # type: ignore[assignment]
    print_record({**row, **{f"{gpu}, $ per hour": price for gpu, price in own.items()}}, output)


def probe(output: OutputOption = Output.TABLE) -> None:
    """Measure a node without GPUs; predictions of CPU endpoints use it from then on."""
    with session.client() as client, show_activity("measuring a node"):
        found = client.budsim.probe()
    row = session.record(found)
    if output is Output.JSON:
        print_json({**found.measured, "gpu": found.gpu, "measured_at": row["measured_at"]})
        return
    measured = {
        title: found.measured[name] for name, title in _MEASURED.items() if name in found.measured
    }
    print_record({"gpu": found.gpu, **measured, "measured at": row["measured_at"]}, output)
    print_next("foundry budsim catalogue", output=output)


def _write_cell(name: str, row: Mapping[str, Any]) -> str:
    """A rate of 0 is an arithmetic that the accelerator lacks."""
    value = row[name]
    return "-" if not value and name != "price_per_hour" else write_number(value)
