"""`make bench NAME=architectures`: every family against transformers, adapters against PEFT.

Random configurations of each family (heads, ties, windows shorter than a sequence, biases, rotary
scaling; see `tests/engines/training/decoder/variants.py`) with random weights in float32: logits,
gradients of every parameter, packed and unpacked, with and without LoRA; what is exported is read
by transformers again; greedy sampling is compared token by token. Needs transformers and peft.
"""

import argparse
import json
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from foundry.engines.training.config import Lora, TargetGroup
from foundry.engines.training.decoder.generation import Sampling, generate
from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.decoder.weights import export_model, load_model
from tests.bench.goals import Goal, list_missed
from tests.engines.training.decoder import reference, variants
from tests.engines.training.decoder.reference import Differences

GOALS = {
    "worst_logit_diff": Goal(at_most=1e-5),
    "worst_gradient_diff": Goal(at_most=1e-4),
    "families": Goal(at_least=14),
    "greedy_continuations_apart": Goal(at_most=0),
}
VARIANTS = 12
_PROMPTS = [[5, 9, 11, 3, 8, 7, 30], [4, 17]]


@dataclass
class Row:
    """The worst of a family.

    Attributes:
        full, adapted: without and with LoRA.
        exported: of the logits, once transformers has read the exported weights.
        sampled_apart: greedy continuations that differ.
    """

    full: Differences = field(default_factory=lambda: Differences(0.0, 0.0, 0.0))
    adapted: Differences = field(default_factory=lambda: Differences(0.0, 0.0, 0.0))
    exported: float = 0.0
    sampled_apart: int = 0


def measure_variant(label: str, seed: int, row: Row, folder: Path) -> None:
    """Compare one random configuration, and widen the family's row by what is found."""
    source, target, adapter = (folder / name for name in ("source", "target", "adapter"))
    target.mkdir()
    adapter.mkdir()
    theirs = reference.write_reference(variants.random_document(label, seed), source, seed)
    model = load_model(source)
    row.full = row.full.widen(reference.compare(model, theirs))
    row.sampled_apart += count_greedy_differences(model, theirs)
    row.exported = max(row.exported, measure_export(model, source, target))
    targets: tuple[TargetGroup, ...] = ("attn",) if model.config.experts else ("attn", "mlp")
    method = Lora(rank=3, alpha=7, targets=targets)
    adapted = reference.adapt(model, theirs, adapter, method)
    row.adapted = row.adapted.widen(reference.compare(model, adapted))


@torch.no_grad()
def measure_export(model: Decoder, source: Path, target: Path) -> float:
    from transformers import AutoModelForCausalLM

    export_model(model, source, target, torch.float32)
    again = AutoModelForCausalLM.from_pretrained(
        target, dtype=torch.float32, attn_implementation="eager"
    )
    tokens, positions = reference.random_stream(model.config.vocab_size, (19,))
    ours = model.logits(model(tokens, positions, (19,)))
    return float((again(tokens[None]).logits[0] - ours).abs().max().item())


def count_greedy_differences(model: Decoder, theirs: Any) -> int:
    steady = model.config.steady_length
    most = 8 if steady is None else min(8, steady - len(_PROMPTS[0]))
    found = generate(model, _PROMPTS, Sampling(max_tokens=most, temperature=0))
    expected = [
        theirs.generate(
            torch.tensor([prompt]),
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            use_cache=False,
        )[0, len(prompt) :].tolist()
        for prompt in _PROMPTS
    ]
    return sum(ours.tokens != each for ours, each in zip(found, expected, strict=True))


def print_table(rows: dict[str, Row]) -> None:
    head = ("family", "logits", "gradients", "packed", "lora", "lora grad", "exported", "sampled")
    print(("{:12}" + "{:>11}" * 7).format(*head), file=sys.stderr)
    for label, row in rows.items():
        shown = (
            row.full.logits,
            row.full.gradients,
            max(row.full.packed, row.adapted.packed),
            row.adapted.logits,
            row.adapted.gradients,
            row.exported,
        )
        numbers = "".join(f"{value:11.1e}" for value in shown)
        print(f"{label:12}{numbers}{row.sampled_apart:11}", file=sys.stderr)


def summarise(rows: dict[str, Row], variants_each: int) -> dict[str, float]:
    found = [each for row in rows.values() for each in (row.full, row.adapted)]
    return {
        "families": len(rows),
        "variants_each": variants_each,
        "worst_logit_diff": max(
            *(each.logits for each in found), *(row.exported for row in rows.values())
        ),
        "worst_gradient_diff": max(each.gradients for each in found),
        "worst_packed_diff": max(each.packed for each in found),
        "greedy_continuations_apart": sum(row.sampled_apart for row in rows.values()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=int, default=VARIANTS, help="of each family")
    count = parser.parse_args().variants
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    started = time.perf_counter()
    rows: dict[str, Row] = {}
    for label in variants.FAMILIES:
        rows[label] = Row()
        for seed in range(count):
            with tempfile.TemporaryDirectory() as folder:
                measure_variant(label, seed, rows[label], Path(folder))
        print(f"{label}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    print_table(rows)
    metrics: dict[str, Any] = summarise(rows, count)
    metrics["missed"] = list_missed(metrics, GOALS)
    print(json.dumps({"bench": "architectures", "metrics": metrics}))
    return 1 if metrics["missed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
