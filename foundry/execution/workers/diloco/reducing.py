"""A member's part of the exchange: pull everybody's offers, average them in scratch space.

Nothing here changes the member's state. Payloads are averaged in the order of their makers' names,
so all members get the same bits.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foundry.engines.training.diloco.codecs import open_codec
from foundry.engines.training.diloco.config import Fragment, OuterConfig
from foundry.engines.training.diloco.replica import GlobalState, Replica
from foundry.errors import InvalidArtifact
from foundry.execution.workers.diloco.messages import Parcel, Reduction, Vote
from foundry.execution.workers.diloco.transport import Courier, pull_all

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Update:
    """What a round would do.

    Attributes:
        delta: the mean outer gradient of the fragment.
        after: the global state with it.
        digest: of `after`.
    """

    round: int
    fragment: Fragment
    delta: Values
    after: GlobalState
    digest: str


class _Refused(Exception):
    """Something that was pulled cannot be used: the vote is no."""

    def __init__(self, message: str, blamed: Sequence[str]) -> None:
        super().__init__(message)
        self.blamed = tuple(blamed)


class Reducer:
    """Reduces the parts that fall to a member.

    Args:
        name: of the member, whose own payloads need not be pulled.
    """

    def __init__(self, name: str, replica: Replica, config: OuterConfig, courier: Courier) -> None:
        self._name = name
        self._replica = replica
        self._config = config
        self._courier = courier
        self._own: Sequence[bytes] = ()

    def remember(self, payloads: Sequence[bytes]) -> None:
        """The member's own offer, part by part."""
        self._own = payloads

    async def share(self, reduction: Reduction) -> tuple[Parcel, ...] | Vote:
        """Averages of the parts that are this member's, encoded for the others."""
        cuts = self._replica.cuts(reduction.fragment, reduction.parts)
        parcels = []
        try:
            for part, reducer in enumerate(reduction.reducers):
                if reducer != self._name:
                    continue
                mean = await self._mean(reduction, part, cuts[part])
                payload = await asyncio.to_thread(
                    self._replica.forward, reduction.fragment, cuts[part], mean
                )
                parcels.append(await asyncio.to_thread(self._courier.put, payload))
        except _Refused as refused:
            return Vote(self._name, error=str(refused), blamed=refused.blamed)
        self._count_sent(reduction, parcels)
        return tuple(parcels)

    async def update(
        self, reduction: Reduction, forwarded: tuple[Parcel, ...] | None
    ) -> Update | Vote:
        """The whole update, from the offers or from their averages."""
        whole = slice(0, self._replica.cuts(reduction.fragment, 1)[0].stop)
        try:
            if forwarded is None:
                delta = await self._mean(reduction, 0, whole)
                self._count_sent(reduction, ())
            else:
                delta = await self._assembled(reduction, forwarded)
        except _Refused as refused:
            return Vote(self._name, error=str(refused), blamed=refused.blamed)
        return await asyncio.to_thread(self._after, reduction, delta)

    async def _mean(self, reduction: Reduction, part: int, cut: slice) -> Values:
        offers = {offer.member: offer for offer in reduction.contributions}
        wanted = {name: offer.parcels[part] for name, offer in offers.items() if name != self._name}
        pulled = await pull_all(self._courier, wanted)
        if pulled.failed:
            raise _Refused("; ".join(pulled.failed.values()), list(pulled.failed))
        payloads = dict(pulled.payloads)
        if self._name in offers:
            payloads[self._name] = self._own[part]
        ordered = [payloads[name] for name in offers]
        weights = [offer.weight for offer in offers.values()]
        return await asyncio.to_thread(
            self._average, reduction, cut, list(offers), ordered, weights
        )

    def _average(
        self,
        reduction: Reduction,
        cut: slice,
        names: Sequence[str],
        payloads: Sequence[bytes],
        weights: Sequence[float],
    ) -> Values:
        try:
            mean = self._replica.reduce(reduction.fragment, cut, payloads, weights)
        except InvalidArtifact as error:
            blamed = self._damaged([cut] * len(names), names, payloads)
            raise _Refused(error.message, blamed) from error
        if not np.isfinite(mean).all():
            blamed = self._damaged([cut] * len(names), names, payloads)
            raise _Refused("an outer gradient is not finite", blamed)
        return mean

    def _damaged(
        self, cuts: Sequence[slice], names: Sequence[str], payloads: Sequence[bytes]
    ) -> list[str]:
        """Whose payload cannot be read, or holds values that are not finite."""
        codec = open_codec(self._config.codec)
        found = []
        for cut, name, payload in zip(cuts, names, payloads, strict=True):
            try:
                sound = bool(np.isfinite(codec.decode(payload, cut.stop - cut.start)).all())
            except InvalidArtifact:
                sound = False
            if not sound:
                found.append(name)
        return found

    async def _assembled(self, reduction: Reduction, forwarded: Sequence[Parcel]) -> Values:
        wanted = {f"{part}": parcel for part, parcel in enumerate(forwarded)}
        pulled = await pull_all(self._courier, wanted)
        if pulled.failed:
            blamed = sorted({reduction.reducers[int(part)] for part in pulled.failed})
            raise _Refused("; ".join(pulled.failed.values()), blamed)
        payloads = [pulled.payloads[part] for part in wanted]
        try:
            return await asyncio.to_thread(self._replica.assemble, reduction.fragment, payloads)
        except InvalidArtifact as error:
            cuts = self._replica.cuts(reduction.fragment, reduction.parts)
            blamed = self._damaged(cuts, reduction.reducers, payloads)
            raise _Refused(error.message, blamed) from error

    def _after(self, reduction: Reduction, delta: Values) -> Update:
        state = self._replica.state.copy()
        self._replica.advance(state, reduction.fragment, delta)
        return Update(reduction.round, reduction.fragment, delta, state, state.digest())

    def _count_sent(self, reduction: Reduction, averaged: Sequence[Parcel]) -> None:
        """What the others pull of this member, by the plan; lost attempts count, too."""
        others = len(reduction.voters) - 1
        offered = [offer.parcels for offer in reduction.contributions if offer.member == self._name]
        for parcels in offered:
            if reduction.reducers:
                pairs = zip(parcels, reduction.reducers, strict=True)
                self._courier.traffic.sent += sum(p.size for p, r in pairs if r != self._name)
            else:
                self._courier.traffic.sent += others * sum(p.size for p in parcels)
        self._courier.traffic.sent += others * sum(parcel.size for parcel in averaged)
