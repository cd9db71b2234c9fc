"""Arguments that vLLM would refuse when it starts."""

from dataclasses import replace

import pytest

from foundry.config import ServingSettings
from foundry.serving.engine.hardware import Hardware, Node
from foundry.serving.engine.limits import find_architecture_faults, next_lora_rank
from foundry.serving.engine.runtime import VllmRules
from foundry.serving.engine.shape import ModelShape

T4S = Hardware(
    (Node(8, 64, 2),),
    accelerators={"nvidia-t4-16gb": "T4"},
    without_bfloat16=frozenset({"nvidia-t4-16gb"}),
)
BOTH = replace(T4S, accelerators={"nvidia-t4-16gb": "T4", "nvidia-l4-24gb": "L4"})


def test_the_least_rank_that_serves_an_adapter() -> None:
    assert [next_lora_rank(rank) for rank in (1, 8, 9, 256, 257, 512, 513)] == [
        8,
        8,
        16,
        256,
        320,
        512,
        None,
    ]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"max_lora_rank": 64}, None),
        ({"max_lora_rank": 100}, "max_lora_rank 100 is none that an engine has: configure one of"),
        ({"max_loras": 64}, None),
        ({"max_loras": 65}, "max_loras 65 is more than the 64 adapters that an engine keeps"),
        ({"max_num_batched_tokens": 16}, None),
        (
            {"max_num_batched_tokens": 16, "max_num_seqs": 17},
            "max_num_batched_tokens 16 is less than max_num_seqs 17",
        ),
    ],
)
def test_numbers_that_no_engine_takes(config: dict[str, int], says: str | None) -> None:
    reasons = VllmRules().supports(config, None).reasons
    assert [reason.startswith(says or "") for reason in reasons] == [True] * (says is not None)


def test_the_servers_own_rank_is_checked_as_well() -> None:
    rules = VllmRules(ServingSettings(max_lora_rank=100))
    assert "max_lora_rank 100" in rules.supports({}, None).reasons[0]
    assert rules.supports({"max_lora_rank": 128}, None).ok


@pytest.mark.parametrize(
    ("config", "hardware", "refused"),
    [
        ({"dtype": "bfloat16"}, T4S, True),
        ({"dtype": "float16"}, T4S, False),
        ({"dtype": "auto"}, T4S, False),
        ({"dtype": "bfloat16"}, BOTH, False),
        ({"dtype": "bfloat16", "resources": {"gpu_type": "nvidia-t4-16gb"}}, BOTH, True),
        ({"dtype": "bfloat16"}, replace(T4S, unknown_accelerators=True), False),
        ({"dtype": "bfloat16"}, Hardware((Node(2, 8),)), False),
    ],
)
def test_a_dtype_that_no_accelerator_has(
    config: dict[str, object], hardware: Hardware, refused: bool
) -> None:
    missing = VllmRules().supports(config, hardware).missing
    assert ("nvidia-t4-16gb has no bfloat16: configure" in "".join(missing)) is refused


def test_an_architecture_that_the_engine_does_not_know() -> None:
    assert find_architecture_faults(()) == []
    assert find_architecture_faults(("NewForCausalLM", "LlamaForCausalLM")) == []
    (fault,) = find_architecture_faults(("NewForCausalLM",))
    assert fault.startswith("the engine does not know the architecture NewForCausalLM")
    report = VllmRules().supports({}, None, model=ModelShape(architectures=("BertModel",)))
    assert "BertModel" in report.reasons[0]
