"""vLLM serves what the decoder exports with the log-probabilities that the decoder computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foundry.engines.training.config import Lora
from foundry.engines.training.decoder import lora
from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.decoder.weights import load_model
from tests.engines.training.decoder import reference, variants
from tests.engines.training.decoder.serve_adapter import PROMPTS, RANK

pytestmark = pytest.mark.engine
# The smallest head that vLLM's attention on a processor knows.
SHAPE = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 256,
}


@torch.no_grad()
def _log_probs(model: Decoder, prompt: list[int], answer: list[int]) -> list[float]:
    """Of the answer's tokens, from one pass over the whole."""
    tokens = torch.tensor(prompt + answer)
    logits = model.logits(model(tokens, torch.arange(len(tokens)), (len(tokens),)))
    every = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    picked: list[float] = every.gather(-1, tokens[len(prompt) :, None]).squeeze(-1).tolist()
    return picked


def _serve(base: Path, adapter: Path, target: Path) -> list[list[tuple[list[int], list[float]]]]:
    module = "tests.engines.training.decoder.serve_adapter"
    environment = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_PLUGINS": "foundry",
    }
    done = subprocess.run(
        [sys.executable, "-m", module, str(base), str(adapter), str(target)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer: list[list[tuple[list[int], list[float]]]] = json.loads(target.read_text())
    return answer


# Fused projections; norms on both sides and soft caps; biases. vLLM's build for processors lacks
# the router's kernel beside adapters, so none with experts.
@pytest.mark.long(reason="an engine starts for each family")
@pytest.mark.parametrize("label", ["phi3", "gemma2", "qwen2.5"])
def test_an_adapter_is_served_with_the_same_log_probabilities(label: str, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    adapter.mkdir()
    # vLLM stretches LongRoPE by the context that is served, transformers by the sequence; and it
    # gives Gemma no head of its own.
    document = variants.random_document(label, 0) | SHAPE
    for field in ("rope_scaling", "original_max_position_embeddings"):
        document.pop(field, None)
    document["tie_word_embeddings"] = label == "gemma2"
    reference.write_reference(document, base)
    plain, adapted = load_model(base), load_model(base)
    method = Lora(rank=RANK, alpha=2 * RANK)
    lora.attach(adapted, method, seed=3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    lora.export_adapter(adapted, method, adapter)
    answers = _serve(base, adapter, tmp_path / "found.json")
    for model, of_model in zip((plain, adapted), answers, strict=True):
        for prompt, (tokens, log_probs) in zip(PROMPTS, of_model, strict=True):
            assert log_probs == pytest.approx(_log_probs(model, prompt, tokens), abs=1e-4)
    tokens, log_probs = answers[1][0]
    assert log_probs != pytest.approx(_log_probs(plain, PROMPTS[0], tokens), abs=0.05)
