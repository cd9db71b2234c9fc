"""The application of one base model and its adapters: `engine-<base8>-r<revision>`."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from ray import serve
from ray.serve import Application

from foundry.config import load_settings
from foundry.serving.engine.deployment import DEPLOYMENT, Closed, EngineReplica, EngineSpec
from foundry.serving.engine.options import EngineOptions, serving_of

_HEALTH = {"health_check_period_s": 10.0, "health_check_timeout_s": 5.0}

# Nothing secret: a runtime environment is visible in Ray's dashboard.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "0",
    "TOKENIZERS_PARALLELISM": "false",
    # vLLM keeps one core for processes that spin; ours sleep (`serving.engine.cpu_platform`).
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_MAX_N_SEQUENCES": "16",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "foundry",
}


def build(args: Mapping[str, Any]) -> Application:
    """An engine application.

    Args:
        args: `base_version_id`, `app_name`, `on_cpu` (True), `accelerators` (from catalogue id to
            Ray's accelerator type), and `config`: of the endpoint, which overrides fields of the
            settings' serving section and holds the engine's options.
    Raises:
        UnsupportedFeature: engines of this cluster cannot be configured so.
    """
    settings = load_settings()
    config, on_cpu = dict(args.get("config") or {}), bool(args.get("on_cpu", True))
    options = EngineOptions.of(config)
    options.check(on_cpu=on_cpu)
    serving = serving_of(settings.serving, config)
    spec = EngineSpec(UUID(str(args["base_version_id"])), str(args["app_name"]), serving, options)
    if on_cpu:
        return bind(EngineReplica, spec, replicas=options.replicas, gpus=0.0)
    return bind(
        EngineReplica,
        spec,
        replicas=options.replicas,
        gpus=float(options.gpus),
        accelerator=options.accelerator(dict(args.get("accelerators") or {})),
    )


def bind(
    server: type[EngineReplica],
    spec: EngineSpec,
    *,
    replicas: int,
    gpus: float,
    accelerator: str | None = None,
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
            **({"accelerator_type": accelerator} if accelerator else {}),
            "runtime_env": {"env_vars": _ENVIRONMENT},
        },
        **_HEALTH,
    )
    closed = serve.deployment(
        name="closed", ray_actor_options={"num_cpus": 0.01}, max_ongoing_requests=8
    )
    return closed(Closed).bind(llm(server).bind(spec))
