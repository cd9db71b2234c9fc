"""What the hardware allows: a roofline of one engine step, and what follows from it.

Symbols as in the field: L layers, d hidden width, h heads, n tokens in a step, I and O tokens in
and out. Every function takes columns of shape (N,) and returns seconds or bytes of that shape.
Efficiencies are 1 here: how far engines stay behind is what `calibration` fits.
"""

from dataclasses import dataclass

import numpy as np

from foundry.engines.budsim.points import Column, Points

# Start of one collective, seconds (NCCL over NVLink, small messages).
ALPHA_S = 8e-6
# Bytes that an engine keeps for itself, about; see `memory` for the careful account.
_RESERVED_BYTES = 2.5e9
_USABLE = 0.9


@dataclass(frozen=True, slots=True)
class Step:
    """Terms of one pass through the model; it lasts at least max(compute, memory) + comm.

    Attributes:
        compute: arithmetic, s.
        weights: reading the weights that the tokens need, s.
        kv: reading the KV cache, s.
        comm: collectives of tensor parallelism and hops between pipeline stages, s.
    """

    compute: Column
    weights: Column
    kv: Column
    comm: Column

    @property
    def memory(self) -> Column:
        return self.weights + self.kv

    @property
    def total(self) -> Column:
        return np.maximum(self.compute, self.weights + self.kv) + self.comm

    def times(self, factor: Column) -> "Step":
        return Step(
            self.compute * factor, self.weights * factor, self.kv * factor, self.comm * factor
        )


@dataclass(frozen=True, slots=True)
class Prior:
    """What a load means for the hardware, each per data parallel rank.

    Attributes:
        mixed: a decode step with its share of prefill, in the steady state.
        decode: a step that only decodes.
        prefill: the whole prompt of one request, alone.
        burst: one prompt's share of a step that is full of prompts.
        share: prompt tokens per step in the steady state.
        context: tokens that a decoding sequence attends to, on average.
        pressure: KV cache that the load wants ÷ what is free.
    """

    mixed: Step
    decode: Step
    prefill: Step
    burst: Step
    share: Column
    context: Column
    pressure: Column


def prior(points: Points) -> Prior:
    """Terms of the steady state of `batch` sequences in flight.

    A pipeline of pp stages works on pp micro-batches at once: each token visits every stage, so
    its latency does not fall, and each stage holds 1/pp of the weights and of the sequences.
    """
    nothing = np.zeros(len(points))
    prompt = np.maximum(points.input - points.cached, 1.0)
    context = points.input + points.output / 2.0
    micro = np.maximum(points.batch / points.pp, 1.0)
    share = np.minimum(points.batch * prompt / points.output, points.chunk)
    passes = np.ceil(prompt / points.chunk)
    # The stages overlap the chunks of one prompt: (m + pp - 1) stage times for m chunks.
    chunked = step(points, prompt / passes, nothing, context).times(passes + points.pp - 1.0)
    full = np.minimum(points.batch * prompt, np.maximum(points.chunk, prompt))
    kv = points.batch * kv_per_token(points) * (points.input + points.output)
    return Prior(
        mixed=step(points, share / points.pp, micro, context).times(points.pp),
        decode=step(points, nothing, micro, context).times(points.pp),
        prefill=chunked,
        burst=step(points, full, nothing, context).times(prompt / full),
        share=share,
        context=context,
        pressure=kv / free_memory(points),
    )


def static_terms(points: Points) -> tuple[Step, Step]:
    """Of a static batch: prefill of all its prompts at once, and one decode step."""
    nothing = np.zeros(len(points))
    prefill = step(points, points.batch * points.input, nothing, points.input)
    micro = np.maximum(points.batch / points.pp, 1.0)
    decode = step(points, nothing, micro, points.input + points.output / 2.0)
    return prefill.times(points.pp), decode.times(points.pp)


def step(points: Points, prefill: Column, decodes: Column, context: Column) -> Step:
    """One step of one pipeline stage.

    Args:
        prefill: new prompt tokens, per data parallel rank.
        decodes: sequences that decode one token, per data parallel rank.
        context: tokens that each decoding sequence attends to.
    """
    tokens = prefill + decodes
    everywhere = tokens * points.dp
    group = points.tp * points.dp
    shared = points.parameters - points.expert_parameters
    visited = points.experts_per_token / np.maximum(points.experts, 1.0)
    routed = points.expert_parameters * visited
    dense = np.maximum(points.active - routed, 0.0)
    width = points.full_layers * points.heads * points.head_dim
    attention = width * (4.0 * decodes * context + 2.0 * prefill * (points.input + points.cached))
    flops = 2.0 * (dense * tokens / points.tp + routed * everywhere / group)
    weights = shared / points.tp + touched(points, everywhere) / group
    return Step(
        compute=(flops + attention / points.tp) / points.pp / points.flops,
        weights=points.wb * weights / points.pp / points.bandwidth,
        kv=decodes * context * kv_per_token(points) / points.bandwidth,
        comm=_comm(points, tokens),
    )


def touched(points: Points, tokens: Column) -> Column:
    """Expert parameters that so many tokens read: E·(1 - (1 - k/E)^n) of E experts."""
    experts = np.maximum(points.experts, 1.0)
    visited = np.minimum(points.experts_per_token / experts, 1.0 - 1e-9)
    read: Column = points.expert_parameters * (1.0 - np.exp(tokens * np.log1p(-visited)))
    return read


def kv_per_token(points: Points) -> Column:
    """KV cache per token of context of one sequence, on one accelerator; bytes."""
    shards = np.where(points.latent > 0, 1.0, np.minimum(points.tp, points.kv_heads))
    size: Column = points.full_layers * points.kv_width * points.kb / shards / points.pp
    return size


def free_memory(points: Points) -> Column:
    """Left for the KV cache on one accelerator, about; bytes, at least 100 MB."""
    shared = (points.parameters - points.expert_parameters) / points.tp
    experts = points.expert_parameters / (points.tp * points.dp)
    weights = points.wb * (shared + experts) / points.pp
    free: Column = np.maximum(_USABLE * points.memory - weights - _RESERVED_BYTES, 1e8)
    return free


def _comm(points: Points, tokens: Column) -> Column:
    """Per stage: two ring all-reduces a layer, the experts' exchange, a hop to the next stage."""
    link = np.maximum(points.link, 1.0)
    message = tokens * points.hidden * 2.0
    layers = points.layers / points.pp
    ring = 2.0 * (points.tp - 1.0) / points.tp * message / link + ALPHA_S
    reduces = np.where(points.tp > 1, 2.0 * layers * ring, 0.0)
    # Experts over data parallel ranks: tokens travel to k experts and back.
    travel = 2.0 * layers * message * points.experts_per_token / link / points.tp
    exchange = np.where((points.dp > 1) & (points.experts > 0), travel + ALPHA_S, 0.0)
    hop = np.where(points.pp > 1, message / link + ALPHA_S, 0.0)
    total: Column = reduces + exchange + hop
    return total
