"""What the regressors see: logs of physical terms and the shape of the question, no identity.

`full` describes the model and the hardware as well; `lean` holds only ratios, loads and formats,
so that a model or an accelerator that nobody measured looks like a mixture of known ones.
"""

import numpy as np
from numpy.typing import NDArray

from foundry.engines.budsim.physics import Prior, Step, free_memory
from foundry.engines.budsim.points import ENGINES, Column, Points

Matrix = NDArray[np.float64]
_TINY = 1e-12


def logarithm(values: Column) -> Column:
    """Natural log, bounded below where a term is absent."""
    logs: Column = np.log(np.maximum(values, _TINY))
    return logs


def lean(points: Points, prior: Prior, calibrated: Column) -> dict[str, Column]:
    """Features by name, (N,) each. `calibrated`: log of the calibrated prior."""
    mixed, prefill = prior.mixed, prior.prefill
    return {
        **_engine(points),
        "month": points.month,
        "tp": np.log2(points.tp),
        "dp": np.log2(points.dp),
        "batch": np.log2(points.batch),
        "input": logarithm(points.input),
        "output": logarithm(points.output),
        "wb": points.wb,
        "native": points.native,
        "latent": points.latent,
        "mixture": (points.experts > 0).astype(np.float64),
        "encoder": points.encoder,
        "mixed.balance": logarithm(mixed.compute / mixed.memory),
        "mixed.comm_share": logarithm(mixed.comm / mixed.total),
        "mixed.kv_share": logarithm(mixed.kv / mixed.total),
        "mixed.weights_share": logarithm(mixed.weights / mixed.total),
        "prefill.balance": logarithm(prefill.compute / prefill.memory),
        "prefill.comm_share": logarithm(prefill.comm / prefill.total),
        "load": logarithm(points.batch * prefill.total / (points.output * mixed.total)),
        "mixed": logarithm(mixed.total),
        "prefill": logarithm(prefill.total),
        "calibrated": calibrated,
    }


def full(points: Points, prior: Prior, calibrated: Column) -> dict[str, Column]:
    """The lean features, every term of the prior, and the shapes of model and hardware."""
    cycle = points.output * prior.mixed.total + prior.prefill.total
    return {
        **lean(points, prior, calibrated),
        **_terms("mixed", prior.mixed),
        **_terms("decode", prior.decode),
        **_terms("prefill", prior.prefill),
        **_terms("burst", prior.burst),
        "share": logarithm(prior.share),
        "pressure": logarithm(prior.pressure),
        "queue": logarithm(points.batch * prior.burst.total),
        "busy": logarithm(points.batch * prior.prefill.total / cycle),
        "lengths": logarithm(points.input / points.output),
        "concurrency": logarithm(points.batch * points.dp),
        "ep": np.log2(points.ep),
        "kb": points.kb,
        "layers": points.layers,
        "hidden": logarithm(points.hidden),
        "kv_width": logarithm(points.kv_width),
        "parameters": logarithm(points.parameters),
        "active": logarithm(points.active),
        "experts": points.experts,
        "experts_per_token": points.experts_per_token,
        "memory": logarithm(points.memory),
        "bandwidth": logarithm(points.bandwidth),
        "flops": logarithm(points.flops),
        "flops16": logarithm(points.flops16),
        "link": logarithm(points.link),
        "nvlink": points.nvlink,
    }


def room(points: Points, prior: Prior) -> dict[str, Column]:
    """Of memory: sequences that fit, how many are wanted of them, and free bytes of a replica.

    Only where a source varies memory enough to learn from: LLM-Pilot's engine takes fewer users
    on a small accelerator than physics alone would say.
    """
    return {
        "room.pressure": logarithm(prior.pressure),
        "room.slots": logarithm(points.batch / prior.pressure),
        "room.free": logarithm(free_memory(points) * points.tp * points.pp),
    }


def matrix(features: dict[str, Column]) -> Matrix:
    """Shape (N, features), in the order of the names' definition."""
    return np.column_stack(list(features.values()))


def _engine(points: Points) -> dict[str, Column]:
    return {
        f"engine.{name}": (points.engine == code).astype(np.float64)
        for code, name in enumerate(ENGINES)
    }


def _terms(name: str, step: Step) -> dict[str, Column]:
    return {
        f"{name}.compute": logarithm(step.compute),
        f"{name}.weights": logarithm(step.weights),
        f"{name}.kv": logarithm(step.kv),
        f"{name}.comm": logarithm(step.comm),
        f"{name}.total": logarithm(step.total),
    }
