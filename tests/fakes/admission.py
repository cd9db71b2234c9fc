"""Steps of an admission that keep a log of what was taken and given back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from foundry.errors import FoundryError
from foundry.infra.http.admission import Admission, Admittee


@dataclass
class Steps:
    """All three steps; `refusals` by the step's name."""

    refusals: dict[str, FoundryError] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    asked: list[Admittee] = field(default_factory=list)

    def admission(self) -> Admission:
        return Admission(self, self, self)

    async def check_rate(self, request: Admittee) -> None:
        self.asked.append(request)
        self._take("rate")

    @asynccontextmanager
    async def claim_key(self, request: Admittee) -> AsyncIterator[None]:
        self._take("claim")
        try:
            yield
        finally:
            self.log.append("-claim")

    @asynccontextmanager
    async def reserve_tokens(self, request: Admittee) -> AsyncIterator[None]:
        self._take("reserve")
        try:
            yield
        finally:
            self.log.append("-reserve")

    def _take(self, step: str) -> None:
        if step in self.refusals:
            raise self.refusals[step]
        self.log.append(f"+{step}")
