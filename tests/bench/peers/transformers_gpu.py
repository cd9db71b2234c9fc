"""The peer's side of the GPU benchmark: transformers' model, PEFT, torch's AdamW.

A plain loop, without the kernels that trainers add: full training keeps float32 weights under
bfloat16 autocast, LoRA a bfloat16 base with float32 adapters; torch's choice of attention kernel,
fused AdamW, gradients clipped to 1, nothing compiled or recomputed.
"""

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.bench.gpu_parts import (
    ALPHA,
    RANK,
    Card,
    Scale,
    find_fitting_rows,
    main,
    measure_steps,
    random_rows,
)


def build_peer(scale: Scale, method: str) -> nn.Module:
    torch.manual_seed(0)
    document = {k: v for k, v in scale.config().items() if k not in ("architectures", "model_type")}
    config = LlamaConfig(**document, attn_implementation="sdpa", use_cache=False)
    dtype = torch.float32 if method == "full" else torch.bfloat16
    with torch.device(scale.device):
        model: nn.Module = LlamaForCausalLM(config).to(dtype)
    if method == "full":
        return model
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    peft: nn.Module = get_peft_model(model, adapter)
    return peft


def measure_peer(part: str, scale: Scale) -> dict[str, Any]:
    method = part.removeprefix("peer-")
    card = Card(scale.device)
    model = build_peer(scale, method)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0, fused=True)

    def attempt(rows: int) -> float:
        tokens = random_rows(scale, rows).to(scale.device)

        def step() -> None:
            with torch.autocast(scale.device, torch.bfloat16):
                loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0).item()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        try:
            return measure_steps(step, card, scale.steps)
        finally:
            optimiser.zero_grad(set_to_none=True)

    return find_fitting_rows(scale, attempt, card)


if __name__ == "__main__":
    main(measure_peer)
