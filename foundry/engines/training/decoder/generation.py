"""Sampling from a decoder in the process that trains it: many prompts at once, on any device.

Prompts are read in one pass over a flat stream; then every sequence grows by a token per pass, its
keys and values cached. Equal prompts are read once.

Shapes: B sequences, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from foundry.engines.training.decoder.cache import KVCache
from foundry.engines.training.decoder.model import Decoder
from foundry.errors import InvalidRequest, UnsupportedFeature

# Sequences that have ended leave the batch once they are this share of it: copying the cache of the
# others costs about as much as one pass.
_ENDED_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: of the softmax; 0: always the likeliest token.
        top_k: only so many of the likeliest tokens; None: all.
        top_p: only the likeliest tokens that together reach this probability.
        seed: the same one gives the same tokens, whatever else is in the batch; None: new ones.
        stop: sequences of tokens after which generation ends; they are part of what is returned.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        rules = {
            "max_tokens must be at least 1": self.max_tokens >= 1,
            "temperature must be 0 or more": 0 <= self.temperature < float("inf"),
            "top_k must be at least 1": self.top_k is None or self.top_k >= 1,
            "top_p must be above 0 and at most 1": 0 < self.top_p <= 1,
            "a stop sequence must have a token": all(self.stop),
        }
        for rule, kept in rules.items():
            if not kept:
                raise InvalidRequest(rule)


@dataclass(frozen=True, slots=True)
class Completion:
    """What one prompt was continued with.

    Attributes:
        log_probs: of each token under the model itself, in nats: neither the temperature nor a cut
            of unlikely tokens is in them, so they are what a forward pass over the whole gives.
        stop_reason: `stop` after a stop sequence, else `length`.
    """

    tokens: list[int]
    log_probs: list[float]
    stop_reason: Literal["stop", "length"]


@dataclass(slots=True)
class _Row:
    """A sequence that still grows."""

    index: int
    tokens: list[int]
    log_probs: list[float]
    random: np.random.Generator

    def ends_with(self, stop: Sequence[Sequence[int]]) -> bool:
        return any(self.tokens[-len(end) :] == list(end) for end in stop)


@torch.no_grad()
def generate(
    model: Decoder, prompts: Sequence[Sequence[int]], sampling: Sampling
) -> list[Completion]:
    """Continue every prompt.

    Raises:
        InvalidRequest: a prompt is empty, or does not fit the model with what may follow.
        UnsupportedFeature: a sequence could grow past the length from which its rotary embedding
            stretches (`longrope`, `dynamic`): what is cached would have to be computed anew.
    """
    _check_prompts(model, prompts, sampling.max_tokens)
    if not prompts:
        return []
    training = model.training
    model.eval()
    try:
        return _Batch(model, prompts, sampling).run()
    finally:
        model.train(training)


def _check_prompts(model: Decoder, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
    config = model.config
    steady = config.steady_length
    for prompt in prompts:
        longest = len(prompt) + max_tokens
        if not prompt or not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
            raise InvalidRequest(
                f"a prompt must have tokens, from 0 to {config.vocab_size - 1} each"
            )
        if steady is None and longest > config.max_position_embeddings:
            raise InvalidRequest(
                f"a prompt of {len(prompt)} tokens and {max_tokens} more exceed the model's "
                f"context of {config.max_position_embeddings}: lower max_tokens"
            )
        if steady is not None and longest > steady and not config.is_stretched(len(prompt)):
            raise UnsupportedFeature(
                f"sampling from {len(prompt)} to {longest} tokens is not supported: the rotary "
                f"embedding of {config.architecture} changes at {steady}; lower max_tokens"
            )


class _Batch:
    """The sequences that are being continued, and those that have ended."""

    def __init__(
        self, model: Decoder, prompts: Sequence[Sequence[int]], sampling: Sampling
    ) -> None:
        self._model = model
        self._prompts = prompts
        self._sampling = sampling
        self._device = model.lm_head.weight.device
        seeds = np.random.SeedSequence(sampling.seed).spawn(len(prompts))
        self._rows = [
            _Row(index, [], [], np.random.default_rng(seed)) for index, seed in enumerate(seeds)
        ]
        self._done: dict[int, Completion] = {}

    def run(self) -> list[Completion]:
        logits_BV = self._read_prompts()
        while self._rows:
            self._append(logits_BV)
            ended = [self._is_ended(row) for row in self._rows]
            if all(ended) or sum(ended) > _ENDED_SHARE * len(ended):
                self._drop(ended)
            if self._rows:
                logits_BV = self._step()
        return [self._done[index] for index in range(len(self._prompts))]

    def _read_prompts(self) -> Tensor:
        distinct = list(dict.fromkeys(tuple(prompt) for prompt in self._prompts))
        lengths = [len(prompt) for prompt in distinct]
        self._cache = KVCache(
            self._model.config,
            len(distinct),
            max(lengths),
            self._model.compute_dtype,
            self._device,
        )
        hidden_TH = self._model(
            self._tensor([token for prompt in distinct for token in prompt]),
            torch.cat([torch.arange(length) for length in lengths]).to(self._device),
            lengths,
            self._cache,
        )
        last_BH = hidden_TH[self._tensor(np.cumsum(lengths).tolist()) - 1]
        places = {prompt: place for place, prompt in enumerate(distinct)}
        order = [places[tuple(prompt)] for prompt in self._prompts]
        self._cache.select(order, max(lengths) + self._sampling.max_tokens)
        return self._model.logits(last_BH)[self._tensor(order)]

    def _step(self) -> Tensor:
        positions = list(self._cache.lengths)
        hidden_BH = self._model(
            self._tensor([row.tokens[-1] for row in self._rows]),
            self._tensor(positions),
            [1] * len(positions),
            self._cache,
        )
        return self._model.logits(hidden_BH)

    def _append(self, logits_BV: Tensor) -> None:
        uniform = [row.random.random() for row in self._rows]
        tokens_B = draw_tokens(
            logits_BV, torch.tensor(uniform, device=self._device), self._sampling
        )
        found_B = logits_BV.log_softmax(-1).gather(-1, tokens_B.unsqueeze(-1)).squeeze(-1)
        for row, token, log_prob in zip(
            self._rows, tokens_B.tolist(), found_B.tolist(), strict=True
        ):
            row.tokens.append(token)
            row.log_probs.append(log_prob)

    def _is_ended(self, row: _Row) -> bool:
        """Record a sequence that has just ended; one that has stays as it was recorded."""
        if row.index not in self._done:
            stopped = row.ends_with(self._sampling.stop)
            if stopped or len(row.tokens) == self._sampling.max_tokens:
                self._done[row.index] = Completion(
                    list(row.tokens), list(row.log_probs), "stop" if stopped else "length"
                )
        return row.index in self._done

    def _drop(self, ended: Sequence[bool]) -> None:
        kept = [place for place, over in enumerate(ended) if not over]
        self._rows = [self._rows[place] for place in kept]
        if kept:
            self._cache.select(kept, self._cache.capacity)

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)


def draw_tokens(logits_BV: Tensor, uniform_B: Tensor, sampling: Sampling) -> Tensor:
    """One token for each row.

    Args:
        uniform_B: from [0, 1): which token of the distribution it is.
    Returns:
        Shape (B,).
    """
    if sampling.temperature == 0:
        return logits_BV.argmax(-1)
    top_k = min(sampling.top_k or logits_BV.shape[-1], logits_BV.shape[-1])
    # In order of likelihood, so that a cut keeps a prefix.
    values_BV, tokens_BV = (logits_BV / sampling.temperature).topk(top_k, dim=-1)
    # float32 sums of a large vocabulary are off by more than the rarest tokens' probability.
    share_BV = values_BV.softmax(-1, dtype=torch.float64)
    reached_BV = share_BV.cumsum(-1)
    kept_BV = reached_BV - share_BV < sampling.top_p
    total_B = (share_BV * kept_BV).sum(-1)
    below_BV = kept_BV & (reached_BV <= (uniform_B * total_B).unsqueeze(-1))
    # Rounding may put the sum of all a little below their total.
    place_B = torch.minimum(below_BV.sum(-1), kept_BV.sum(-1) - 1)
    return tokens_BV.gather(-1, place_B.unsqueeze(-1)).squeeze(-1)
