"""Run by `test_served_adapters` in a process of its own: greedy answers of vLLM.

Arguments: base, adapter, and where to write, as JSON, the tokens and their log-probabilities, per
model (base, then adapted) and prompt.
"""

import json
import sys
from pathlib import Path
from typing import Any

PROMPTS = ([5, 9, 11, 3, 8, 7, 30, 31, 32, 4, 60, 61, 17], [4, 90, 91])
RANK, TOKENS = 8, 12


def _log_probs(answer: Any) -> list[float]:
    return [
        each[token].logprob for each, token in zip(answer.logprobs, answer.token_ids, strict=True)
    ]


def main() -> None:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    base, adapter, target = sys.argv[1:]
    engine = LLM(
        base,
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=64,
        max_num_seqs=4,
        enable_lora=True,
        max_lora_rank=RANK,
        seed=0,
    )
    # Log-probabilities of prompts fail beside an adapter in vLLM's build for processors.
    options = SamplingParams(max_tokens=TOKENS, temperature=0, logprobs=0, detokenize=False)
    prompts: list[Any] = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    found = []
    for lora in (None, LoRARequest("adapter", 1, adapter)):
        outputs = engine.generate(prompts, options, lora_request=lora, use_tqdm=False)
        answers = [output.outputs[0] for output in outputs]
        found.append([(list(each.token_ids), _log_probs(each)) for each in answers])
    Path(target).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
