"""The learner's loss over a decoder is transformers' loss, also of capped and scaled logits."""

from pathlib import Path

import pytest
import torch

from foundry.engines.training.decoder.weights import load_model
from foundry.engines.training.learner import Learner
from foundry.engines.training.packing import Batch
from tests.engines.training.decoder import reference, variants

SEGMENT = 21


@pytest.mark.parametrize("label", ["gemma2", "granite", "qwen3-moe", "phi3"])
def test_loss_and_gradient_norm_equal_those_of_transformers(label: str, tmp_path: Path) -> None:
    theirs = reference.write_reference(variants.random_document(label, 0), tmp_path)
    model = load_model(tmp_path)
    tokens_T, positions_T = reference.random_stream(model.config.vocab_size, (SEGMENT,))
    batch = Batch(tokens_T, positions_T, (SEGMENT,), torch.arange(SEGMENT - 1), tokens_T[1:])
    parameters = dict(model.named_parameters())
    outcome = Learner(model, parameters, lr=0, weight_decay=0, grad_clip=0).step([batch], 0)
    expected = theirs(tokens_T[None], labels=tokens_T[None]).loss
    torch.autograd.backward(expected)
    gradients = [p.grad.flatten() for p in theirs.parameters() if p.grad is not None]
    assert outcome.loss == pytest.approx(expected.item(), abs=1e-5)
    assert outcome.grad_norm == pytest.approx(float(torch.cat(gradients).norm()), rel=1e-4)
