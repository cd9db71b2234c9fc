"""AdamW whose moments are kept in 8 bits (arXiv:2110.02861): 2.03 bytes a value instead of 8.

Blocks of 256 values share a float32 scale, the largest magnitude among them. Inside a block a value
is one of 256 numbers that lie denser near zero: seven decades, each with twice as many fractions as
the one below. The update itself is float32. torchao and bitsandbytes have such optimisers too; for
a hundred lines, neither is worth another dependency of every machine that trains, and torchao's
compiles its step on each of them.

Shapes: N values of a parameter, B blocks.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from foundry.engines.training.optimisers.params import AdamParams

BLOCK = 256
_DECADES = 7
# Norms and biases: their moments are next to nothing, and they bear rounding worst.
_SMALLEST = 4096
# Values updated at one time; bounds the float32 copies to a few MiB.
_CHUNK = 2**20
_MOMENTS = ("exp_avg", "exp_avg_sq")


def dynamic_codes(*, signed: bool) -> Tensor:
    """The 256 numbers in [-1, 1], or [0, 1], in rising order, shape (256,)."""
    values = [0.0, 1.0]
    for decade in range(_DECADES):
        edges = torch.linspace(
            0.1, 1, 2 ** (decade + (0 if signed else 1)) + 1, dtype=torch.float64
        )
        means = (10.0 ** (decade + 1 - _DECADES) * (edges[:-1] + edges[1:]) / 2).tolist()
        values += means
        if signed:
            values += [-mean for mean in means]
    return torch.tensor(sorted(values), dtype=torch.float32)


class Quantiser:
    """Blocks of float32 values to bytes and back, on one device."""

    def __init__(self, *, signed: bool, device: torch.device) -> None:
        codes = dynamic_codes(signed=signed)
        self._codes = codes.to(device)
        # The nearest code of every bfloat16, which is finer than the codes: a search among their
        # edges takes ten times as long on a processor.
        shares = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16).float()
        nearest = torch.bucketize(shares, (codes[:-1] + codes[1:]) / 2)
        if not signed:
            # A second moment of zero beside a first one that is not would be a step without limit.
            nearest = torch.where(shares > 0, nearest.clamp(min=1), nearest)
        self._nearest = nearest.to(torch.uint8).to(device)

    def encode(self, values_N: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes of shape (N,) and scales of shape (B,); the last block may be short."""
        padded = nn.functional.pad(values_N, (0, -len(values_N) % BLOCK)).view(-1, BLOCK)
        scales_B = padded.abs().amax(-1)
        shares = padded / scales_B.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)
        patterns = shares.to(torch.bfloat16).view(torch.int16).to(torch.int32).view(-1) & 0xFFFF
        return self._nearest.index_select(0, patterns)[: len(values_N)], scales_B

    def decode(self, codes_N: Tensor, scales_B: Tensor) -> Tensor:
        """Float32, shape (N,)."""
        shares = self._codes.index_select(0, codes_N.int())
        scales = scales_B.repeat_interleave(BLOCK)[: len(codes_N)]
        return shares.mul_(scales)


class AdamW8bit:
    """State of 2 bytes a trained value and 8 a block; small tensors keep float32."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self._parameters = dict(parameters)
        self._state: dict[str, dict[str, Tensor]] = {}
        device = next(iter(self._parameters.values())).device
        self._quantisers = {
            "exp_avg": Quantiser(signed=True, device=device),
            "exp_avg_sq": Quantiser(signed=False, device=device),
        }

    @torch.no_grad()
    def step(self, adam: AdamParams) -> None:
        for name, parameter in self._parameters.items():
            if parameter.grad is None:
                continue
            state = self._state.setdefault(name, self._fresh(parameter))
            state["step"] += 1
            values, gradient = parameter.view(-1), parameter.grad.reshape(-1)
            for chunk in _chunks(parameter.numel()):
                self._update(values[chunk], gradient[chunk], state, chunk, adam)
        increment_version(list(self._parameters.values()))

    def state(self) -> dict[str, Tensor]:
        return {
            f"{kind}.{name}": value
            for name, state in self._state.items()
            for kind, value in state.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self._state = {
            name: {
                kind: tensors[f"{kind}.{name}"].clone().to(parameter.device)
                for kind in self._fresh(parameter)
            }
            for name, parameter in self._parameters.items()
            if f"step.{name}" in tensors
        }

    def _fresh(self, parameter: Tensor) -> dict[str, Tensor]:
        size, device = parameter.numel(), parameter.device
        state = {"step": torch.zeros((), dtype=torch.float32)}
        for moment in _MOMENTS:
            if size < _SMALLEST:
                state[moment] = torch.zeros(size, device=device)
                continue
            zero = int((dynamic_codes(signed=moment == "exp_avg") == 0).nonzero())
            state[moment] = torch.full((size,), zero, dtype=torch.uint8, device=device)
            state[f"{moment}_scale"] = torch.zeros(-(-size // BLOCK), device=device)
        return state

    def _update(
        self,
        values_N: Tensor,
        gradient_N: Tensor,
        state: Mapping[str, Tensor],
        chunk: slice,
        adam: AdamParams,
    ) -> None:
        gradient_N = gradient_N.float()
        first = self._read(state, "exp_avg", chunk).lerp_(gradient_N, 1 - adam.beta1)
        second = self._read(state, "exp_avg_sq", chunk).mul_(adam.beta2)
        second.addcmul_(gradient_N, gradient_N, value=1 - adam.beta2)
        self._write(state, "exp_avg", chunk, first)
        self._write(state, "exp_avg_sq", chunk, second)
        steps = float(state["step"])
        root = second.div_(1 - adam.beta2**steps).sqrt_().add_(adam.eps)
        values_N.mul_(1 - adam.lr * adam.weight_decay)
        values_N.addcdiv_(first, root, value=-adam.lr / (1 - adam.beta1**steps))

    def _read(self, state: Mapping[str, Tensor], moment: str, chunk: slice) -> Tensor:
        kept = state[moment][chunk]
        if kept.dtype == torch.float32:
            return kept.clone()
        return self._quantisers[moment].decode(kept, state[f"{moment}_scale"][_blocks(chunk)])

    def _write(self, state: Mapping[str, Tensor], moment: str, chunk: slice, value: Tensor) -> None:
        if state[moment].dtype == torch.float32:
            state[moment][chunk] = value
            return
        codes, scales = self._quantisers[moment].encode(value)
        state[moment][chunk] = codes
        state[f"{moment}_scale"][_blocks(chunk)] = scales


def _chunks(size: int) -> Iterator[slice]:
    """Whole blocks, but for the last."""
    for start in range(0, size, _CHUNK):
        yield slice(start, min(start + _CHUNK, size))


def _blocks(chunk: slice) -> slice:
    return slice(chunk.start // BLOCK, -(-chunk.stop // BLOCK))
