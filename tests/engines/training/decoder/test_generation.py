"""The in-process sampler against a pass over whole sequences, and against transformers.

Shapes: B sequences, V vocabulary.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from foundry.engines.training.decoder.generation import Completion, Sampling, draw_tokens, generate
from foundry.engines.training.decoder.model import Decoder
from foundry.engines.training.decoder.weights import load_model
from foundry.errors import InvalidRequest, UnsupportedFeature
from tests.engines.training.decoder import reference, variants

PROMPTS = [[5, 9, 11, 3, 8, 7, 30, 31, 32], [4], [5, 9, 11, 3, 8, 7, 30, 31, 32], [8, 6, 7]]


def _model(label: str, model_dir: Path, seed: int = 0) -> tuple[Decoder, Any]:
    theirs = reference.write_reference(variants.random_document(label, seed), model_dir)
    return load_model(model_dir), theirs


def _whole_log_probs(model: Decoder, prompt: list[int], found: Completion) -> list[float]:
    """Of the sampled tokens, from one pass over prompt and answer."""
    tokens = torch.tensor(prompt + found.tokens)
    hidden = model(tokens, torch.arange(len(tokens)), (len(tokens),))
    every = model.logits(hidden).log_softmax(-1)[len(prompt) - 1 : -1]
    picked: list[float] = every.gather(-1, tokens[len(prompt) :, None]).squeeze(-1).tolist()
    return picked


@pytest.mark.parametrize("label", variants.FAMILIES)
@torch.no_grad()
def test_log_probabilities_are_those_of_a_pass_over_the_whole(label: str, tmp_path: Path) -> None:
    model, theirs = _model(label, tmp_path, seed=1)
    steady = model.config.steady_length
    most = 14 if steady is None else steady - len(PROMPTS[0])
    found = generate(model, PROMPTS, Sampling(max_tokens=most, seed=4))
    for prompt, completion in zip(PROMPTS, found, strict=True):
        assert len(completion.tokens) == most
        expected = _whole_log_probs(model, prompt, completion)
        assert completion.log_probs == pytest.approx(expected, abs=1e-5)
    assert found[0].tokens != found[2].tokens
    greedy = generate(model, PROMPTS, Sampling(max_tokens=most, temperature=0))
    for prompt, completion in zip(PROMPTS[:2], greedy, strict=False):
        expected_tokens = theirs.generate(
            torch.tensor([prompt]),
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            # Its cache forgets nothing where a window is one token.
            use_cache=False,
        )
        assert completion.tokens == expected_tokens[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return _model("smollm2", tmp_path_factory.mktemp("smol"))[0]


def test_a_seed_gives_the_same_tokens_whatever_else_is_in_the_batch(smol: Decoder) -> None:
    sampling = Sampling(max_tokens=12, temperature=0.8, top_p=0.9, seed=7)
    together = generate(smol, PROMPTS, sampling)
    assert generate(smol, PROMPTS, sampling) == together
    alone = generate(smol, PROMPTS[:1], sampling)[0]
    assert alone.tokens == together[0].tokens
    other = generate(smol, PROMPTS, Sampling(max_tokens=12, seed=8))
    assert other[0].tokens != together[0].tokens
    unseeded = [generate(smol, PROMPTS[:1], Sampling(max_tokens=30))[0].tokens for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_a_sequence_ends_after_a_stop_sequence(smol: Decoder) -> None:
    free = generate(smol, PROMPTS, Sampling(max_tokens=20, seed=3))
    pair = tuple(free[0].tokens[4:6])
    found = generate(smol, PROMPTS, Sampling(max_tokens=20, seed=3, stop=(pair, (999,))))
    assert found[0].stop_reason == "stop"
    assert found[0].tokens[-2:] == list(pair)
    for stopped, whole in zip(found, free, strict=True):
        assert stopped.tokens == whole.tokens[: len(stopped.tokens)]
        assert stopped.log_probs == pytest.approx(whole.log_probs[: len(stopped.tokens)], abs=1e-5)
        assert stopped.stop_reason == "stop" or len(stopped.tokens) == 20


def test_sequences_that_end_leave_the_others_alone(smol: Decoder) -> None:
    prompts = [[token] for token in range(3, 35)]
    free = generate(smol, prompts, Sampling(max_tokens=25, seed=1))
    stop = tuple((token,) for token in range(0, 40))
    found = generate(smol, prompts, Sampling(max_tokens=25, seed=1, stop=stop))
    assert len({len(completion.tokens) for completion in found}) > 3
    for stopped, whole in zip(found, free, strict=True):
        assert stopped.tokens == whole.tokens[: len(stopped.tokens)]


def test_the_model_stays_in_its_mode(smol: Decoder) -> None:
    for training in (True, False):
        smol.train(training)
        generate(smol, PROMPTS, Sampling(max_tokens=1))
        assert smol.training is training
    assert generate(smol, [], Sampling(max_tokens=1)) == []


def test_draws_follow_the_distribution() -> None:
    logits_BV = torch.tensor([[0.5, 0.1, 0.3, 0.1]]).log().expand(10_000, 4)
    uniform_B = (torch.arange(10_000) + 0.5) / 10_000
    shares = {
        (1.0, None, 1.0): [0.5, 0.1, 0.3, 0.1],
        (1.0, 2, 1.0): [0.625, 0.0, 0.375, 0.0],
        (1.0, None, 0.6): [0.625, 0.0, 0.375, 0.0],
        (1.0, None, 0.5): [1.0, 0.0, 0.0, 0.0],
        (0.5, None, 1.0): [25 / 36, 1 / 36, 9 / 36, 1 / 36],
        (0.0, None, 1.0): [1.0, 0.0, 0.0, 0.0],
    }
    for (temperature, top_k, top_p), expected in shares.items():
        sampling = Sampling(1, temperature=temperature, top_k=top_k, top_p=top_p)
        drawn = draw_tokens(logits_BV, uniform_B, sampling).bincount(minlength=4) / 10_000
        assert drawn.tolist() == pytest.approx(expected, abs=2e-4)


def test_the_largest_draw_is_a_token_that_may_be_drawn() -> None:
    logits = torch.randn(50, 1000, generator=torch.Generator().manual_seed(0))
    almost = torch.full((50,), 1 - 2**-24)
    for top_k in (1, 3, 1000):
        drawn = draw_tokens(logits, almost, Sampling(1, top_k=top_k))
        assert bool((logits.gather(-1, drawn[:, None]) >= logits.topk(top_k).values[:, -1:]).all())


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"stop": ((),)},
    ],
)
def test_a_wrong_option_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(wrong)).partition("_")[0]):
        Sampling(**{"max_tokens": 1} | wrong)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [([], "must have tokens"), ([10**6], "must have tokens"), ([-1], "from 0"), ([3] * 250, "256")],
)
def test_a_prompt_that_does_not_fit_is_refused(smol: Decoder, prompt: list[int], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        generate(smol, [prompt], Sampling(max_tokens=7))


@torch.no_grad()
def test_sampling_across_a_change_of_frequencies_is_refused(tmp_path: Path) -> None:
    model, _ = _model("phi4-mini", tmp_path)
    with pytest.raises(UnsupportedFeature, match=r"from 10 to 17 tokens.*changes at 16"):
        generate(model, [[5] * 10], Sampling(max_tokens=7))
    prompt = [5] * 17
    (found,) = generate(model, [prompt], Sampling(max_tokens=9, seed=0))
    assert found.log_probs == pytest.approx(_whole_log_probs(model, prompt, found), abs=1e-5)
