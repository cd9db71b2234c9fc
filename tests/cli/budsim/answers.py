"""What a server answers to `foundry budsim`."""

from typing import Any

from tests.sdk.answers import AT, JOB_ID

PREDICTION: dict[str, Any] = {
    **{
        name: {"low": 100.0, "point": 120.0, "high": 150.0}
        for name in ("ttft_p50_ms", "ttft_p95_ms", "latency_p95_ms", "throughput_tps")
    },
    "tpot_ms": {"low": 10.0, "point": 12.5, "high": 15.0},
    "cost_per_mtok": {"low": 0.5, "point": 0.625, "high": None},
    "cost_per_hour": 3.72,
    "fits": True,
    "slots": 90,
    "utilization": 0.5,
    "novelty": "new GPU",
    "confidence": "low",
}
CONFIGURATION: dict[str, Any] = {
    "gpu": "nvidia-l40s-48gb",
    "runtime": "vllm",
    "tensor_parallel_size": 2,
    "pipeline_parallel_size": 1,
    "replicas": 3,
    "max_model_len": 2048,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 2048,
    "gpu_memory_utilization": 0.9,
    "quantization": "none",
    "kv_cache_dtype": "auto",
}
POINT = {"cost_per_mtok": 0.625, "ttft_p95_ms": 120.0, "throughput_tps": 120.0}
RESULT: dict[str, Any] = {
    "feasible": True,
    "choice": {"configuration": CONFIGURATION, "prediction": PREDICTION},
    "resources": {
        "gpu_type": "nvidia-l40s-48gb",
        "gpu_count": 2,
        "cpu_cores": 8,
        "memory_gb": 28,
    },
    "targets": [
        {
            "name": "max_ttft_ms",
            "percentile": "p95",
            "limit": 500.0,
            "bound": 150.0,
            "slack": 0.7,
            "met": True,
            "relaxed": None,
        }
    ],
    "binding": "max_ttft_ms",
    "overloaded": False,
    "alternatives": [{"configuration": {**CONFIGURATION, "replicas": 4}, "prediction": PREDICTION}],
    "front": [POINT, {**POINT, "cost_per_mtok": 0.8, "ttft_p95_ms": 90.0}],
    "infeasible": [],
    "regret": None,
    "tried": 10,
    "possible": 10,
    "exhaustive": True,
    "shortage": None,
    "notes": [],
    "digests": {"inputs": "a", "catalogue": "b", "model": "c"},
    "endpoint_config": {key: CONFIGURATION[key] for key in CONFIGURATION if key != "gpu"},
    "explanation": {"text": "Bottleneck: bandwidth."},
}


def make_row(**fields: object) -> dict[str, object]:
    return {
        "id": JOB_ID,
        "state": "DONE",
        "method": "REGRESSOR",
        "model": "smol@1.0.0",
        "request": {},
        "digest": "d",
        "catalogue_digest": "c",
        "predictor_version": "1",
        "attempt": 1,
        "result": RESULT,
        "error": None,
        "created_by": "ada",
        "created_at": AT,
        "started_at": AT,
        "finished_at": AT,
        **fields,
    }
