"""Engine applications as Serve is told to run them."""

from uuid import UUID

import pytest

from foundry.config import ServingSettings
from foundry.errors import EngineFailed, InvalidConfiguration
from foundry.serving.engine.deployment import EngineReplica, EngineSpec
from foundry.serving.engine.hardware import Hardware, Node
from foundry.serving.engine.options import EngineOptions
from foundry.serving.engine.shape import ModelShape
from foundry.supervisor.serve_engines import EngineBuild
from foundry.supervisor.vllm_runtime import VllmRuntime, bind_deployments
from tests.supervisor.test_engine_proof import FakeUpstream, answer

LAPTOP = Hardware((Node(2, 8),), (Node(2, 8),))
GPUS = Hardware((Node(8, 64, 4),), (), {"nvidia-l40s-48gb": "L40S"})


def build(hardware: Hardware, context_length: int | None = None, **config: object) -> EngineBuild:
    return EngineBuild(
        UUID(int=1), "engine-x-r1", config, "digest", hardware, ModelShape(context_length)
    )


def runtime() -> VllmRuntime:
    return VllmRuntime(ServingSettings(max_model_len=2048, max_num_seqs=8))


@pytest.mark.parametrize(
    ("context_length", "config", "expected"),
    [(None, {}, 2048), (8192, {}, 2048), (512, {}, 512), (8192, {"max_model_len": 4096}, 4096)],
)
def test_an_engine_starts_with_no_longer_context_than_its_models(
    context_length: int | None, config: dict[str, object], expected: int
) -> None:
    application = runtime().build(build(LAPTOP, context_length, **config))
    (engine,) = application._bound_deployment.init_args
    (spec,) = engine._bound_deployment.init_args
    assert (spec.serving.max_model_len, spec.app_name) == (expected, "engine-x-r1")
    assert spec.base_version_id == UUID(int=1)


def test_an_engine_is_placed_on_the_accelerators_that_it_names() -> None:
    resources = {"gpu_type": "nvidia-l40s-48gb"}
    wanted = build(GPUS, tensor_parallel_size=2, replicas=2, resources=resources)
    (engine,) = runtime().build(wanted)._bound_deployment.init_args
    deployment = engine._bound_deployment
    reserved = deployment.ray_actor_options
    assert (reserved["num_gpus"], reserved["accelerator_type"]) == (2, "L40S")
    assert (deployment.num_replicas, deployment.version) == (2, "digest")
    # An answer takes 900 s at most; the supervisor cuts off earlier where it must.
    assert deployment._deployment_config.graceful_shutdown_timeout_s == 900.0


def test_what_the_cluster_cannot_run_is_not_built() -> None:
    with pytest.raises(InvalidConfiguration, match="this cluster has no accelerator"):
        runtime().build(build(LAPTOP, tensor_parallel_size=2))


def test_a_replica_reserves_what_its_endpoint_asks_for() -> None:
    options = EngineOptions.of({"replicas": 2, "resources": {"cpu_cores": 1.5, "memory_gb": 4}})
    spec = EngineSpec(UUID(int=1), "engine-x-r1", ServingSettings(max_num_seqs=8), options)
    application = bind_deployments(
        EngineReplica, spec, replicas=2, need=options.need(on_cpu=True), version="digest"
    )
    (engine,) = application._bound_deployment.init_args
    deployment = engine._bound_deployment
    assert deployment.num_replicas == 2
    assert deployment.max_ongoing_requests == 16
    # A dead engine is noticed within one period, a hung one after three.
    health = deployment._deployment_config
    assert (health.health_check_period_s, health.health_check_timeout_s) == (3.0, 5.0)
    reserved = deployment.ray_actor_options
    assert (reserved["num_cpus"], reserved["num_gpus"], reserved["memory"]) == (1.5, 0, 4 * 10**9)
    # The same versions again only change the number of replicas; the ingress is left alone.
    assert deployment.version == "digest"
    assert application._bound_deployment.version == "digest"


async def test_an_engine_is_healthy_when_it_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    made = runtime()
    upstream = FakeUpstream(answer(), answer(), answer(tokens=0))
    monkeypatch.setattr(made, "_upstream", upstream)
    await made.health("engine-x-r1", "smol")
    assert len(upstream.bodies) == 2
    with pytest.raises(EngineFailed, match="generated nothing"):
        await made.health("engine-x-r1", "smol")
