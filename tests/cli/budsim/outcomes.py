"""A measured window, as a server answers it."""

from dataclasses import fields
from typing import Any

from foundry.engines.budsim.points import Points
from tests.sdk.answers import AT, JOB_ID


def make_outcome(**changed: object) -> dict[str, Any]:
    metrics = ("ttft_p50_ms", "tpot_ms", "ttft_mean_ms")
    return {
        "id": JOB_ID,
        "endpoint_id": JOB_ID,
        "revision": 1,
        "source": "gateway",
        "started_at": AT,
        "window_s": 900.0,
        "gpu": "cpu",
        "engine": "vllm",
        "engine_version": "0.29.0",
        "configuration": {},
        "configuration_digest": "d",
        "point": {field.name: 1.0 for field in fields(Points)},
        "predictor_version": "1",
        "load": {"concurrency": 3.0},
        "predicted": {name: [5.0, 10.0, 20.0] for name in metrics},
        "applied": {},
        "actual": dict.fromkeys(metrics, 15.0),
        "covered": {},
        "n": 200,
        **changed,
    }
