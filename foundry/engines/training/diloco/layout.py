"""All trained parameters as one vector, a fragment of the model being a slice of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foundry.engines.training.diloco.config import Fragment
from foundry.errors import InvalidRequest

Values = NDArray[np.float32]
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one parameter lies in the vector."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Two workers with the same model and number of fragments have the same layout.

    Attributes:
        places: every parameter, once; they cover the vector.
        bounds: fragment f is the slice from bounds[f] to bounds[f + 1].
    """

    places: tuple[Place, ...]
    bounds: tuple[int, ...]

    @classmethod
    def of(cls, parameters: Mapping[str, Tensor], fragments: int) -> Self:
        """Layer l belongs to fragment l mod `fragments` (the strided pattern of Streaming DiLoCo,
        arXiv:2501.18512), what is in no layer to the fragment that is smallest by then.

        Raises:
            InvalidRequest: a fragment would be empty.
        """
        members: list[list[str]] = [[] for _ in range(fragments)]
        outside = []
        for name in sorted(parameters):
            if match := _LAYER.search(name):
                members[int(match[1]) % fragments].append(name)
            else:
                outside.append(name)
        for name in sorted(outside, key=lambda name: -parameters[name].numel()):
            sizes = [sum(parameters[name].numel() for name in group) for group in members]
            members[sizes.index(min(sizes))].append(name)
        if not all(members):
            raise InvalidRequest(
                f"the model has too few layers for {fragments} fragments: use fewer"
            )
        places, bounds, start = [], [0], 0
        for group in members:
            for name in group:
                stop = start + parameters[name].numel()
                places.append(Place(name, tuple(parameters[name].shape), start, stop))
                start = stop
            bounds.append(start)
        return cls(tuple(places), tuple(bounds))

    @property
    def size(self) -> int:
        return self.bounds[-1]

    @property
    def fragments(self) -> int:
        return len(self.bounds) - 1

    def slice(self, fragment: Fragment) -> slice:
        if fragment is None:
            return slice(0, self.size)
        return slice(self.bounds[fragment], self.bounds[fragment + 1])

    def read(self, parameters: Mapping[str, Tensor], fragment: Fragment = None) -> Values:
        """A copy of the fragment's live parameters."""
        start, stop = self.slice(fragment).start, self.slice(fragment).stop
        out = np.empty(stop - start, np.float32)
        for place in self._within(fragment):
            flat = parameters[place.name].detach().reshape(-1).to("cpu", torch.float32)
            out[place.start - start : place.stop - start] = flat.numpy()
        return out

    @torch.no_grad()
    def write(
        self, values: Values, parameters: Mapping[str, Tensor], fragment: Fragment = None
    ) -> None:
        """Set the fragment's live parameters."""
        start = self.slice(fragment).start
        for place in self._within(fragment):
            part = torch.from_numpy(values[place.start - start : place.stop - start])
            parameters[place.name].copy_(part.view(place.shape))

    def _within(self, fragment: Fragment) -> list[Place]:
        whole = self.slice(fragment)
        return [place for place in self.places if whole.start <= place.start < whole.stop]
