"""The application of one base model and its adapters: `engine-<base8>-r<revision>`."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from ray import serve
from ray.serve import Application

from foundry.config import ServingSettings, load_settings
from foundry.serving.deployment import DEPLOYMENT, Closed, EngineReplica, EngineSpec

_HEALTH = {"health_check_period_s": 10.0, "health_check_timeout_s": 5.0}

# Nothing secret: a runtime environment is visible in Ray's dashboard.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "0",
    "TOKENIZERS_PARALLELISM": "false",
    # vLLM keeps one core for processes that spin; ours sleep (see foundry.serving.cpu_platform).
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_MAX_N_SEQUENCES": "16",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "foundry",
}


def build(args: Mapping[str, Any]) -> Application:
    """An engine application.

    Args:
        args: `base_version_id`, `app_name`, `replicas` (1), `gpus` per replica (0), and `serving`,
            which overrides fields of the settings' serving section.
    """
    settings = load_settings()
    overrides = dict(args.get("serving") or {})
    serving = ServingSettings(**(settings.serving.model_dump() | overrides))
    spec = EngineSpec(UUID(str(args["base_version_id"])), str(args["app_name"]), serving)
    replicas = int(args.get("replicas", 1))
    return bind(EngineReplica, spec, replicas=replicas, gpus=float(args.get("gpus", 0)))


def bind(
    server: type[EngineReplica], spec: EngineSpec, *, replicas: int, gpus: float
) -> Application:
    """Deployments of `spec`. Twice the batch may wait in a replica, as much again in the handle."""
    waiting = 2 * spec.serving.max_num_seqs
    llm = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=replicas,
        max_ongoing_requests=waiting,
        max_queued_requests=waiting,
        graceful_shutdown_timeout_s=30.0,
        ray_actor_options={
            # Work runs in vLLM's own processes; this only lets Ray place the replica.
            "num_cpus": 1.0 if gpus else 0.5,
            "num_gpus": gpus,
            "runtime_env": {"env_vars": _ENVIRONMENT},
        },
        **_HEALTH,
    )
    closed = serve.deployment(
        name="closed", ray_actor_options={"num_cpus": 0.01}, max_ongoing_requests=8
    )
    return closed(Closed).bind(llm(server).bind(spec))
