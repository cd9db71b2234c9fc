"""What cannot be trained, placed or served is refused before it is queued; no database, no Ray."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from foundry.catalog.datasets.service import DatasetVersion
from foundry.catalog.registry.domain import Manifest
from foundry.catalog.registry.service import ModelVersion
from foundry.engines.training.config import Full, Lora, SftConfig
from foundry.engines.training.diloco.config import (
    DilocoConfig,
    FleetConfig,
    InnerConfig,
    OuterConfig,
)
from foundry.errors import (
    Conflict,
    FoundryError,
    InvalidArtifact,
    InvalidConfiguration,
    InvalidRequest,
    Unavailable,
    UnsupportedFeature,
)
from foundry.execution.jobs.checking import Training, TrainingCheck, check_nothing_ignored
from foundry.execution.jobs.placement import Needs
from foundry.infra.directory_store import DirectoryStore
from foundry.infra.objects import FileRef
from foundry.serving.endpoints.serving_rank import ServingRank
from foundry.serving.endpoints.tables import Endpoint
from foundry.serving.engine.hardware import Hardware, Node
from tests.catalog.registry.files import LLAMA

CHAT: dict[str, Any] = {"chat_template": "{{ messages }}"}
INDEX = "model.safetensors.index.json"
MIXTRAL = LLAMA | {
    "architectures": ["MixtralForCausalLM"],
    "max_position_embeddings": 512,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
LAPTOP = Hardware((Node(2, 8),))
T4S = Hardware(
    (Node(8, 64, 2),),
    accelerators={"nvidia-t4-16gb": "T4"},
    without_bfloat16=frozenset({"nvidia-t4-16gb"}),
)


class FixedHardware:
    """A cluster; None: it does not answer."""

    def __init__(self, found: Hardware | None) -> None:
        self._found = found

    async def read_hardware(self) -> Hardware:
        if self._found is None:
            raise Unavailable("Ray did not answer within 2 s")
        return self._found


class Desk:
    """A base `smol@0.1.0` with a context of 512, and a dataset of conversations."""

    def __init__(self, root: Path) -> None:
        self.objects = DirectoryStore(root)
        self.config: dict[str, Any] = LLAMA | {"max_position_embeddings": 512}
        self.tokenizer: dict[str, Any] = CHAT
        self.index: dict[str, Any] | None = None
        self.paths = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
        self.kind, self.data_kind, self.rows = "base", "chat", (9, 1)
        self.hardware: Hardware | None = LAPTOP
        self.grows, self.asked = False, 0
        self.served = ServingRank(64)

    async def ask(self, config: SftConfig | DilocoConfig) -> None:
        self.asked += 1
        for path, document in (
            ("config.json", self.config),
            ("tokenizer_config.json", self.tokenizer),
        ):
            await self.objects.put_bytes(f"{self.asked}/{path}", json.dumps(document).encode())
        if self.index is not None:
            self.paths = self.paths | {INDEX}
            await self.objects.put_bytes(f"{self.asked}/{INDEX}", json.dumps(self.index).encode())
        base = SimpleNamespace(kind=self.kind, reference="smol@0.1.0", context_length=512)
        data = SimpleNamespace(
            kind=self.data_kind,
            reference="support@1",
            train_rows=self.rows[0],
            eval_rows=self.rows[1],
            options={},
        )
        files = tuple(
            FileRef(path, "0" * 64, 9, f"{self.asked}/{path}") for path in sorted(self.paths)
        )
        training = training_of(config)
        check_nothing_ignored(training, cast(DatasetVersion, data))
        check = TrainingCheck(self.objects, FixedHardware(self.hardware), grows=self.grows)
        await check.check(
            training,
            cast(ModelVersion, base),
            Manifest(UUID(int=1), "d" * 64, files),
            cast(DatasetVersion, data),
            self.served,
        )


def training_of(config: SftConfig | DilocoConfig) -> Training:
    if isinstance(config, SftConfig):
        return Training(config, config, "config", Needs(accelerator=True))
    workers = config.fleet.quorum or config.fleet.workers
    return Training(config, config.inner, "config.inner", Needs(workers, 0.5, accelerator=True))


def sft(**fields: Any) -> SftConfig:
    return SftConfig(**{"max_seq_len": 128} | fields)


def diloco(
    inner: dict[str, Any] | None = None,
    *,
    workers: int = 2,
    quorum: int | None = None,
    **outer: Any,
) -> DilocoConfig:
    return DilocoConfig(
        inner=InnerConfig(**{"max_seq_len": 128} | (inner or {})),
        outer=OuterConfig(**outer),
        fleet=FleetConfig(workers=workers, quorum=quorum),
    )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_what_can_be_trained_is_accepted(desk: Desk) -> None:
    await desk.ask(sft())
    await desk.ask(diloco())
    # The laptop holds four halves of a core.
    await desk.ask(diloco(workers=4))


@pytest.mark.parametrize(
    ("config", "kind", "says"),
    [
        (sft(max_seq_len=1024), InvalidRequest, "set it to 512 or less"),
        (diloco({"max_seq_len": 513}), InvalidRequest, "config.inner.max_seq_len is 513"),
        (
            sft(method=Lora(rank=256)),
            InvalidRequest,
            "config.method.rank is 256, but a new endpoint of smol@0.1.0 would serve adapters up "
            "to rank 64: train with rank 64 or less, or first make one with `foundry endpoints "
            "create smol@0.1.0 --max-lora-rank 256`",
        ),
        (diloco({"method": Lora(rank=65)}), InvalidRequest, "--max-lora-rank 128"),
        (diloco(fragments=5), InvalidRequest, "divides into 4 at most"),
        (diloco({"method": Lora()}, fragments=4), InvalidRequest, "divides into 2 at most"),
        (
            diloco(workers=6),
            InvalidConfiguration,
            "the cluster has no room for 6 workers with 0.5 CPU each: it is 1 node with 2 CPU and "
            "holds 4 of them even when idle; set config.fleet.workers to 4 or less, add nodes, or "
            "set config.fleet.quorum to 4 or less so that the others may come later",
        ),
        (
            sft(method=Lora(targets=("attn", "unembed"))),
            UnsupportedFeature,
            "targets has unembed, but the base's lm_head is its embedding",
        ),
        (sft(epochs=2, max_steps=9), Conflict, "config.epochs would be ignored"),
        (sft(offload=True), Conflict, "config.offload would be ignored: the cluster has no accel"),
        (
            sft(activation_checkpointing=True, activation_budget="auto"),
            Conflict,
            "config.activation_budget would be ignored: activation_checkpointing recomputes every",
        ),
        (diloco({"log_every": 9}), Conflict, "config.inner.log_every would be ignored"),
    ],
)
async def test_what_cannot_work_is_refused_with_what_would_do(
    desk: Desk, config: SftConfig | DilocoConfig, kind: type[FoundryError], says: str
) -> None:
    with pytest.raises(kind) as raised:
        await desk.ask(config)
    assert type(raised.value) is kind
    assert says in raised.value.message


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"kind": "adapter"}, InvalidRequest, "smol@0.1.0 is an adapter: train from its base"),
        ({"rows": (0, 3)}, InvalidRequest, "support@1 has no rows to train on"),
        (
            {"config": LLAMA | {"architectures": ["GPT2LMHeadModel"]}},
            UnsupportedFeature,
            "smol@0.1.0 cannot be trained: training GPT2LMHeadModel is not supported",
        ),
        (
            {"config": MIXTRAL},
            UnsupportedFeature,
            "adapters on the experts of MixtralForCausalLM are not supported: set method.targets",
        ),
        (
            {"index": {"weight_map": {"model.layers.0.self_attn.q_proj.bias": "a"}}},
            InvalidArtifact,
            "the weights hold model.layers.0.self_attn.q_proj.bias, which LlamaForCausalLM with",
        ),
        (
            {"index": {"weight_map": {"model.norm.weight": "a"}}},
            InvalidArtifact,
            "weights lack model.embed_tokens.weight (19 tensors in all)",
        ),
        ({"paths": {"config.json"}}, InvalidRequest, "without tokenizer.json, tokenizer_config"),
        ({"paths": {"config.json", "tokenizer.model"}}, InvalidRequest, "AutoTokenizer of transf"),
        ({"tokenizer": {"eos_token": "x"}}, InvalidRequest, "smol@0.1.0 has no chat template"),
    ],
)
async def test_a_base_or_data_that_no_training_can_use(
    desk: Desk, changes: dict[str, Any], kind: type[FoundryError], says: str
) -> None:
    for name, value in changes.items():
        setattr(desk, name, value)
    with pytest.raises(kind) as raised:
        await desk.ask(sft())
    assert says in raised.value.message


async def test_prompts_need_no_template_and_one_may_be_a_file(desk: Desk) -> None:
    desk.tokenizer, desk.data_kind = {}, "prompt_completion"
    await desk.ask(sft())
    desk.data_kind, desk.paths = "chat", desk.paths | {"chat_template.jinja"}
    await desk.ask(sft())


async def test_evaluating_needs_rows_that_are_held_out(desk: Desk) -> None:
    desk.rows = (9, 0)
    await desk.ask(sft())
    with pytest.raises(
        Conflict, match=r"config.eval_every is set, but support@1 holds no rows out"
    ):
        await desk.ask(sft(eval_every=5))


async def test_the_rank_is_that_of_the_endpoint(desk: Desk) -> None:
    endpoint = Endpoint(name="smol", model_reference="smol@0.1.0", config={"max_lora_rank": 8})
    desk.served = ServingRank(8, endpoint)
    await desk.ask(sft(method=Lora(rank=8)))
    await desk.ask(sft(method=Full()))
    with pytest.raises(InvalidRequest) as raised:
        await desk.ask(sft(method=Lora(rank=16)))
    assert raised.value.message == (
        "config.method.rank is 16, but the endpoint smol serves adapters up to rank 8: train with "
        "rank 8 or less, or first change that with `echo '{\"max_lora_rank\": 16}' | foundry "
        "endpoints configure smol -` and `foundry deploy smol@0.1.0`"
    )


async def test_a_precision_that_no_accelerator_has(desk: Desk) -> None:
    desk.hardware = T4S
    for fits in ("auto", "float16", "float32"):
        await desk.ask(sft(precision=fits))
    with pytest.raises(InvalidConfiguration) as raised:
        await desk.ask(sft(precision="bfloat16"))
    assert raised.value.message == (
        "config.precision is bfloat16, but nvidia-t4-16gb has none: use float16 or float32"
    )
    both = {"nvidia-t4-16gb": "T4", "nvidia-l4-24gb": "L4"}
    new = {"nvidia-z9-1gb": "Z9"}
    for other in (
        replace(T4S, accelerators=both),
        replace(T4S, accelerators=new),
        replace(T4S, unknown_accelerators=True),
    ):
        desk.hardware = other
        await desk.ask(sft(precision="bfloat16"))


async def test_processors_do_not_train_in_float16(desk: Desk) -> None:
    """Which of them is quick in bfloat16 the cluster does not tell."""
    desk.hardware = LAPTOP
    for fits in ("auto", "bfloat16", "float32"):
        await desk.ask(sft(precision=fits))
    with pytest.raises(InvalidConfiguration, match="float16, but a processor has none: use float"):
        await desk.ask(sft(precision="float16"))


async def test_each_worker_of_a_fleet_wants_an_accelerator(desk: Desk) -> None:
    desk.hardware = T4S
    with pytest.raises(InvalidConfiguration, match="and 2 accelerators and holds 2 of them"):
        await desk.ask(diloco(workers=3))


async def test_workers_may_come_later(desk: Desk) -> None:
    await desk.ask(diloco(workers=6, quorum=4))
    with pytest.raises(InvalidConfiguration, match="no room for 5 workers"):
        await desk.ask(diloco(workers=6, quorum=5))
    desk.grows = True
    await desk.ask(diloco(workers=600))


@pytest.mark.parametrize("found", [None, Hardware(())])
async def test_a_cluster_that_says_nothing_refuses_nothing(
    desk: Desk, found: Hardware | None
) -> None:
    desk.hardware = found
    await desk.ask(diloco(workers=600))


async def test_a_store_that_is_away_refuses_nothing(desk: Desk) -> None:
    desk.config = {"architectures": ["Qwen2ForCausalLM"]}
    desk.objects.get_bytes = get_nothing  # type: ignore[method-assign]
    await desk.ask(sft())


async def get_nothing(key: str) -> bytes:
    raise Unavailable(f"{key} cannot be read")
