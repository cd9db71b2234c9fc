"""A body that is accepted, for every operation that takes one; the tests send each of them."""

from collections.abc import Mapping

_WORKLOAD = {"users": 8, "input": {"mean": 512, "p95": 1024}, "output": {"mean": 128}}
_CLUSTER = {"groups": [{"gpu": "nvidia-l4", "gpus_per_node": 4, "nodes": 2}]}
_TARGETS = {"max_ttft_ms": 500, "max_tpot_ms": 60, "percentile": "p95"}
_CONFIGURATION = {"gpu": "nvidia-l4", "max_model_len": 4096, "max_num_seqs": 16}
_VERSION_ID = "0198f3c2-0000-7000-8000-000000000002"
_ENDPOINT_ID = "0198f3c2-0000-7000-8000-000000000003"
_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
# Enough of a config.json to know what a model needs.
_MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}

EXAMPLES: Mapping[str, object] = {
    "keys_create": {
        "name": "continuous integration",
        "role": "member",
        "scopes": ["jobs:*", "datasets:*"],
        "expires_in_days": 30,
    },
    "aliases_set": {
        "version": "0.1.0",
        "expected_version_id": None,
        "reason": "passed the evaluation",
    },
    "aliases_rollback": {"expected_version_id": _VERSION_ID, "reason": "answers became worse"},
    "versions_set_stage": {"deprecated": True},
    "jobs_submit_sft": {
        "name": "support-bot",
        "base": "smollm2-135m",
        "dataset": "support@1",
        "config": {"epochs": 1, "max_seq_len": 256, "method": {"kind": "lora", "rank": 16}},
    },
    "jobs_submit_diloco": {
        "name": "support-bot",
        "base": "smollm2-135m",
        "dataset": "support@1",
        "config": {"inner": {"max_seq_len": 256}, "fleet": {"workers": 2}},
    },
    "jobs_submit_import": {"name": "smollm2-135m", "source": "bundled:smollm2-135m"},
    "endpoints_create": {
        "model": "smollm2-135m",
        "config": {"max_model_len": 2048, "max_num_seqs": 8},
        "deploy": True,
    },
    "endpoints_configure": {"optimization_method": "MANUAL", "max_num_seqs": 16, "replicas": 1},
    "endpoints_scale": {"replicas": 2},
    "endpoints_rollback": {"revision": 1},
    "budsim_recommend": {
        "config": _MODEL,
        "workload": _WORKLOAD,
        "cluster": _CLUSTER,
        "targets": _TARGETS,
    },
    "budsim_predict": {
        "config": _MODEL,
        "workload": _WORKLOAD,
        "configurations": [_CONFIGURATION],
    },
    "budsim_validate": {
        "config": _MODEL,
        "workload": _WORKLOAD,
        "cluster": _CLUSTER,
        "deployment": {
            "deployment": {
                "runtime": "vllm",
                "config": {"max_model_len": 4096, "max_num_seqs": 16},
                "resources": {"gpu_type": "nvidia-l4"},
            }
        },
    },
    "budsim_simulate": {
        "config": _MODEL,
        "configuration": _CONFIGURATION,
        "workload": _WORKLOAD,
        "requests": 200,
    },
    "budsim_set_prices": {"prices": {"nvidia-l4": 0.7}, "expected_version": 0},
    "budsim_recalibrate": {
        "load_test": {
            "endpoint_id": _ENDPOINT_ID,
            "levels": [
                {
                    "started_at": "2026-01-31T12:00:00Z",
                    "duration_s": 20.0,
                    "requests": [
                        {
                            "input_tokens": 512,
                            "output_tokens": 128,
                            "ttft_s": 0.2,
                            "duration_s": 2.5,
                        }
                    ],
                }
            ],
        }
    },
    "budsim_register_model": {
        "version": "site-1",
        "digest": _DIGEST,
        "cv": {"tpot/new GPU": 15.0},
    },
}
