"""One worker's side of DiLoCo: live weights, the global state, and what it keeps back.

A round, seen from here: inner steps change the live weights; `offer` encodes the outer gradient of
a fragment; `reduce` averages everybody's offers into scratch space, and where the parts are shared
out, `forward` and `assemble` pass the averages on; then `commit` takes all of it, or `withdraw`
forgets it and the worker offers again. Nothing but `commit` and `heal` changes the global state, so
a round that is not committed leaves no trace, and equal inputs leave equal bits on every worker.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foundry.engines.training.diloco.codecs import Codec, open_codec
from foundry.engines.training.diloco.config import Fragment, OuterConfig
from foundry.engines.training.diloco.layout import Layout
from foundry.engines.training.diloco.outer import nesterov_step, weighted_mean

Values = NDArray[np.float32]
# Parts of a fragment start at multiples of this, the largest block of the codecs.
_ALIGNMENT = 4096


@dataclass(frozen=True, slots=True)
class GlobalState:
    """What all healthy workers agree on.

    Attributes:
        theta: parameters, float32, in the order of the layout.
        velocity: outer momentum, likewise.
    """

    theta: Values
    velocity: Values

    def digest(self) -> str:
        """SHA-256 over both, lower-case hex."""
        digest = hashlib.sha256(self.theta.tobytes())
        digest.update(self.velocity.tobytes())
        return digest.hexdigest()

    def copy(self) -> "GlobalState":
        return GlobalState(self.theta.copy(), self.velocity.copy())


@dataclass(frozen=True, slots=True)
class Residuals:
    """What lossy codecs have left out so far: it is added to what is encoded next.

    Attributes:
        offered: of this worker's own outer gradients.
        forwarded: of the averages that it passed on to the others.
    """

    offered: Values
    forwarded: Values


@dataclass(slots=True)
class _Staged:
    """One round's vectors before they were encoded, and what readers made of them."""

    wanted: Values
    seen: Values
    forwarded: dict[int, tuple[slice, Values]] = field(default_factory=dict)


class Replica:
    """The outer state of one worker around its live parameters."""

    def __init__(self, parameters: Mapping[str, Tensor], config: OuterConfig) -> None:
        self._parameters = parameters
        self._config = config
        self._codec: Codec = open_codec(config.codec)
        self.layout = Layout.of(parameters, config.fragments)
        theta = self.layout.read(parameters)
        self.state = GlobalState(theta, np.zeros_like(theta))
        self.residuals = Residuals(np.zeros_like(theta), np.zeros_like(theta))
        # An error counts only once the round is committed.
        self._staged: dict[Fragment, _Staged] = {}

    def offer(self, fragment: Fragment, parts: int = 1) -> list[bytes]:
        """Encode the outer gradient, θ - θ_m plus what was kept back, in aligned parts."""
        whole = self.layout.slice(fragment)
        wanted = self.state.theta[whole] - self.layout.read(self._parameters, fragment)
        wanted += self.residuals.offered[whole]
        cuts = self.cuts(fragment, parts)
        payloads = [self._codec.encode(wanted[cut]) for cut in cuts]
        seen = np.concatenate(
            [
                self._codec.decode(payload, cut.stop - cut.start)
                for payload, cut in zip(payloads, cuts, strict=True)
            ]
        )
        self._staged[fragment] = _Staged(wanted, seen)
        return payloads

    def reduce(
        self, fragment: Fragment, cut: slice, payloads: Sequence[bytes], weights: Sequence[float]
    ) -> Values:
        """The weighted mean of everybody's offers of one part, in the order given.

        Raises:
            InvalidArtifact: a payload is damaged.
        """
        size = cut.stop - cut.start
        return weighted_mean([self._codec.decode(p, size) for p in payloads], weights)

    def forward(self, fragment: Fragment, cut: slice, mean: Values) -> bytes:
        """Encode the mean of a part that this worker has reduced for the others."""
        wanted = mean + self.residuals.forwarded[self.layout.slice(fragment)][cut]
        payload = self._codec.encode(wanted)
        error = wanted - self._codec.decode(payload, wanted.size)
        self._staged[fragment].forwarded[cut.start] = (cut, error)
        return payload

    def assemble(self, fragment: Fragment, payloads: Sequence[bytes]) -> Values:
        """The whole mean from its forwarded parts.

        Raises:
            InvalidArtifact: a payload is damaged.
        """
        cuts = self.cuts(fragment, len(payloads))
        return np.concatenate(
            [
                self._codec.decode(payload, cut.stop - cut.start)
                for payload, cut in zip(payloads, cuts, strict=True)
            ]
        )

    def commit(self, fragment: Fragment, delta: Values, *, merged: bool = True) -> None:
        """Take the outer step and bring the live parameters along.

        Args:
            delta: the mean that the quorum agreed on.
            merged: this worker's own offer is part of it. Otherwise its work is kept back whole
                and offered with the next round.
        """
        whole = self.layout.slice(fragment)
        live = self.layout.read(self._parameters, fragment)
        staged = self._staged.pop(fragment, None)
        self._settle(whole, staged, live, merged=merged)
        self.advance(self.state, fragment, delta)
        theta = self.state.theta[whole]
        alpha = np.float32(self._config.mixing)
        mixed = alpha * live + (np.float32(1) - alpha) * theta if alpha else theta
        self.layout.write(mixed, self._parameters, fragment)

    def advance(self, state: GlobalState, fragment: Fragment, delta: Values) -> None:
        """Take the outer step on `state`, in place."""
        whole = self.layout.slice(fragment)
        nesterov_step(
            state.theta[whole],
            state.velocity[whole],
            delta,
            self._config.lr,
            self._config.momentum,
        )

    def _settle(self, whole: slice, staged: _Staged | None, live: Values, *, merged: bool) -> None:
        """Keep back what this round's payloads left out."""
        feedback = np.float32(self._codec.feedback)
        if merged and staged is not None:
            self.residuals.offered[whole] = feedback * (staged.wanted - staged.seen)
        elif not merged:
            # Mixing leaves the other share of this work in the live weights.
            share = np.float32(1) - np.float32(self._config.mixing)
            self.residuals.offered[whole] += share * (self.state.theta[whole] - live)
        # A part that another worker has reduced this time starts from nothing at the next turn.
        self.residuals.forwarded[whole] = 0
        for cut, error in (staged.forwarded if staged is not None else {}).values():
            self.residuals.forwarded[whole][cut] = feedback * error

    def withdraw(self, fragment: Fragment) -> None:
        """The round was not committed: the next offer starts from the same residual."""
        self._staged.pop(fragment, None)

    def heal(self, state: GlobalState, *, keep_work: bool = False) -> None:
        """Take over a healthy worker's global state.

        Args:
            keep_work: own work is kept back and offered next; otherwise it and the residuals are
                dropped.
        """
        zeros = np.zeros_like(state.theta)
        offered = zeros
        if keep_work:
            live = self.layout.read(self._parameters)
            offered = self.residuals.offered + (self.state.theta - live)
        self.restore(state, Residuals(offered, zeros))
        self.write_outer(self._parameters)

    def write_outer(self, parameters: Mapping[str, Tensor]) -> None:
        """Set parameters of the same layout to the global ones, which are what a run is for."""
        self.layout.write(self.state.theta, parameters)

    def restore(self, state: GlobalState, residuals: Residuals) -> None:
        """As a checkpoint has it; the live parameters are loaded apart."""
        self.state = state.copy()
        self.residuals = Residuals(residuals.offered.copy(), residuals.forwarded.copy())
        self._staged.clear()

    def cuts(self, fragment: Fragment, parts: int) -> tuple[slice, ...]:
        """The parts of a fragment, relative to it; the last ones may be empty."""
        whole = self.layout.slice(fragment)
        size = whole.stop - whole.start
        step = -(-size // (parts * _ALIGNMENT)) * _ALIGNMENT
        return tuple(
            slice(min(part * step, size), min((part + 1) * step, size)) for part in range(parts)
        )

    def payload_bytes(self, fragment: Fragment, parts: int = 1) -> list[int]:
        """Length of each part of an offer."""
        return [
            self._codec.payload_bytes(cut.stop - cut.start) for cut in self.cuts(fragment, parts)
        ]
