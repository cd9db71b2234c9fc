"""Replays of requests, as `numerics` computes: blocking and pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from foundry.serving.recommendations import numerics

if TYPE_CHECKING:
    from foundry.engines.budsim.configuration import Ints
    from foundry.engines.budsim.request import Workload
    from foundry.engines.budsim.traces import Trace
    from foundry.serving.recommendations.learning import Learnt
    from foundry.serving.recommendations.schemas import SimulateIn, TraceRow


def simulate_deployment(
    config: Mapping[str, object],
    checkpoint_bytes: int | None,
    prices: Mapping[str, float],
    asked: "SimulateIn",
    learnt: "Learnt | None" = None,
) -> dict[str, Any]:
    """Percentiles of a replay, ms, and how the engines fared; see `simulator.SimulatedRun`."""
    numerics.require_libraries()
    from foundry.engines.budsim.configuration import Configurations
    from foundry.engines.budsim.model_config import model_spec
    from foundry.engines.budsim.replay import replay

    trace, workload = _requests(asked)
    spec = model_spec(config, checkpoint_bytes=checkpoint_bytes)
    configuration = numerics.configuration_of(asked.configuration, spec)
    numerics.check_configurations(
        spec, Configurations.of([configuration]), lambda row: "configuration"
    )
    run = replay(
        spec,
        configuration,
        trace,
        workload,
        catalogue=numerics.build_catalogue(prices, learnt),
        predictor=numerics.choose_predictor(learnt),
    )
    percentiles = {
        name.replace("_s", "_ms"): {part: value * 1e3 for part, value in asdict(found).items()}
        for name, found in run.summary().items()
    }
    shown = {
        name: getattr(run, name)
        for name in ("duration_s", "throughput_tps", "utilization", "peak_kv", "steps", "saturated")
    }
    counts = {
        "requests": len(trace),
        "rejected": int(run.rejected.sum()),
        "preemptions": int(run.preemptions.sum()),
        "output_tokens": int(run.output_tokens),
    }
    answer: dict[str, Any] = numerics.to_plain({"percentiles": percentiles, **shown, **counts})
    return answer


def _requests(asked: "SimulateIn") -> tuple["Trace", "Workload"]:
    """The trace to replay, and the load that it is."""
    from foundry.engines.budsim.traces import synthetic_trace

    if asked.trace is not None:
        return _traced(asked.trace)
    assert asked.workload is not None
    workload = asked.workload.workload()
    trace = synthetic_trace(
        asked.requests,
        # A closed loop ignores when its requests arrive.
        rate=workload.rate or 1.0,
        prompt=workload.input,
        output=workload.output,
        arrival_scv=workload.arrival_scv,
        seed=asked.seed,
    )
    return trace, workload


def _traced(rows: "Sequence[TraceRow]") -> tuple["Trace", "Workload"]:
    import numpy as np

    from foundry.engines.budsim.request import Lengths, Workload
    from foundry.engines.budsim.traces import Trace

    ordered = sorted(rows, key=lambda row: row.arrival_s)
    arrivals = np.asarray([row.arrival_s for row in ordered])
    trace = Trace(
        arrivals - arrivals[0],
        np.asarray([row.input_tokens for row in ordered], dtype=np.int64),
        np.asarray([row.output_tokens for row in ordered], dtype=np.int64),
    )
    rate = trace.rate if math.isfinite(trace.rate) else float(len(ordered))

    def lengths(tokens: "Ints") -> Lengths:
        p50, p95 = np.percentile(tokens, (50, 95))
        return Lengths(float(tokens.mean()), float(p50), float(p95))

    return trace, Workload(lengths(trace.prompt_tokens), lengths(trace.output_tokens), rate=rate)
