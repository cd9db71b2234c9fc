"""Questions and answers for tests."""

import asyncio
from dataclasses import dataclass, field

from foundry.errors import FoundryError
from foundry.serving.recommendations.domain import Question
from foundry.serving.recommendations.schemas import RecommendationCreate

# Llama-3-8B, as its config.json says it.
LLAMA: dict[str, object] = {
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
    "tie_word_embeddings": False,
}
# Llama-3-70B: the training data hold its family.
LARGE: dict[str, object] = LLAMA | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
WORKLOAD: dict[str, object] = {"users": 16, "input": {"mean": 1024}, "output": {"mean": 256}}
CLUSTER: dict[str, object] = {"groups": [{"gpu": "nvidia-l40s-48gb", "gpus_per_node": 4}]}


def body(**fields: object) -> dict[str, object]:
    return {"config": LLAMA, "workload": WORKLOAD, "cluster": CLUSTER, **fields}


def question(**fields: object) -> RecommendationCreate:
    return RecommendationCreate.model_validate(body(**fields))


ENDPOINT_CONFIG: dict[str, object] = {
    "runtime": "vllm",
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "replicas": 2,
    "max_model_len": 512,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 2048,
    "gpu_memory_utilization": 0.9,
    "quantization": "none",
    "kv_cache_dtype": "auto",
    "resources": {
        "gpu_type": "nvidia-l40s-48gb",
        "gpu_count": 1,
        "cpu_cores": 6,
        "memory_gb": 9,
    },
}


def answer(*, feasible: bool = True) -> dict[str, object]:
    """As `Recommendation.to_dict` writes it, as far as the slice reads it."""
    choice = {
        "configuration": {"gpu": "nvidia-l40s-48gb", "replicas": 2},
        "prediction": {"tpot_ms": {"low": 10.0, "point": 12.0, "high": 15.0}},
    }
    other = {"configuration": {"gpu": "nvidia-l40s-48gb", "replicas": 3}, "prediction": {}}
    return {
        "feasible": feasible,
        "choice": choice,
        "binding": None if feasible else "max_ttft_ms",
        "alternatives": [other],
        "endpoint_config": ENDPOINT_CONFIG,
    }


@dataclass
class FakeSearcher:
    """Answers as a test says, after `gate` opens.

    Attributes:
        asked: every question that was searched.
    """

    result: dict[str, object] = field(default_factory=answer)
    fault: FoundryError | RuntimeError | None = None
    gate: asyncio.Event | None = None
    asked: list[Question] = field(default_factory=list)

    async def recommend(self, question: Question) -> dict[str, object]:
        self.asked.append(question)
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        return self.result
