"""vLLM as an application of Ray Serve: one base model and its adapters."""

from ray import serve
from ray.serve import Application

from foundry.config import ServingSettings
from foundry.serving.endpoints.domain import LONGEST_ANSWER_S
from foundry.serving.engine.deployment import DEPLOYMENT, Closed, EngineReplica, EngineSpec
from foundry.serving.engine.hardware import Node
from foundry.serving.engine.options import EngineOptions, serving_of
from foundry.serving.engine.runtime import VllmRules
from foundry.serving.engine.shape import limit_context
from foundry.serving.engine.upstream import HandleUpstream
from foundry.supervisor.engine_proof import prove_answers
from foundry.supervisor.serve_engines import EngineBuild

_GB = 10**9
# A check costs the engine nothing, and a dead one is replaced at the next.
_HEALTH = {"health_check_period_s": 3.0, "health_check_timeout_s": 5.0}

# Nothing secret: a runtime environment is visible in Ray's dashboard.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "RAY_SERVE_LLM_ENABLE_DIRECT_STREAMING": "0",
    "TOKENIZERS_PARALLELISM": "false",
    # vLLM's own configuration closes every handler of the process, Serve's among them; a
    # controller that restarts then takes a healthy replica for a broken one and replaces it.
    "VLLM_CONFIGURE_LOGGING": "0",
    # vLLM keeps one core for processes that spin; ours sleep (`serving.engine.cpu_platform`).
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_MAX_N_SEQUENCES": "16",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_PLUGINS": "foundry",
}


class VllmRuntime(VllmRules):
    """Implements the supervisor's `Runtime`."""

    def __init__(self, serving: ServingSettings) -> None:
        """Remember the defaults.

        Args:
            serving: what holds where a configuration says nothing.
        """
        super().__init__(serving)
        self._upstream = HandleUpstream(DEPLOYMENT)

    def build(self, wanted: EngineBuild) -> Application:
        """An engine application.

        Raises:
            InvalidConfiguration: engines of this cluster cannot be configured so.
        """
        options = EngineOptions.of(wanted.config)
        options.check(wanted.hardware)
        serving = limit_context(serving_of(self._serving, wanted.config), wanted.model)
        return bind_deployments(
            EngineReplica,
            EngineSpec(wanted.base_version_id, wanted.app_name, serving, options),
            replicas=options.replicas,
            need=options.need(on_cpu=wanted.hardware.on_cpu),
            accelerator=options.accelerator(wanted.hardware.accelerators),
            version=wanted.config_digest,
        )

    async def health(self, app_name: str, model: str) -> None:
        """Prove that the engine answers, streamed and not.

        Raises:
            EngineFailed: its answer is broken.
            Unavailable: it does not answer.
        """
        await prove_answers(self._upstream, app_name, model)


def bind_deployments(
    server: type[EngineReplica],
    spec: EngineSpec,
    *,
    replicas: int,
    need: Node,
    accelerator: str | None = None,
    version: str | None = None,
) -> Application:
    """Deployments of `spec`.

    Requests that run when it is deleted have the longest time here; the supervisor ends them
    earlier where it must. Twice the batch may wait in a replica, as much again in the handle.

    Args:
        need: what one replica reserves.
        version: of what the replicas are made of; the same one again only changes their number.
    """
    waiting = 2 * spec.serving.max_num_seqs
    llm = serve.deployment(
        name=DEPLOYMENT,
        num_replicas=replicas,
        max_ongoing_requests=waiting,
        max_queued_requests=waiting,
        graceful_shutdown_timeout_s=LONGEST_ANSWER_S,
        ray_actor_options={
            "num_cpus": need.cpus,
            "num_gpus": need.gpus,
            **({"memory": int(need.memory_gb * _GB)} if need.memory_gb else {}),
            **({"accelerator_type": accelerator} if accelerator else {}),
            "runtime_env": {"env_vars": _ENVIRONMENT},
        },
        **_HEALTH,
    )
    closed = serve.deployment(
        name="closed", ray_actor_options={"num_cpus": 0.01}, max_ongoing_requests=8
    )
    engine, ingress = llm(server), closed(Closed)
    # Serve draws random ones otherwise and would restart every replica to change their number;
    # there is no public way to say it.
    engine._version = ingress._version = version
    return ingress.bind(engine.bind(spec))
