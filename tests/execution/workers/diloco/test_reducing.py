"""Whom a member blames for what it cannot use."""

import pytest

from foundry.engines.training.diloco.config import E3m0, OuterConfig
from foundry.execution.workers.diloco.messages import Contribution, Reduction, Vote
from foundry.execution.workers.diloco.reducing import Reducer, Update
from foundry.execution.workers.diloco.transport import Courier, TokenBucket
from tests.engines.training.diloco.workers import Worker
from tests.execution.workers.diloco.fleets import config
from tests.fakes.fleet import FakeSpawner, MemoryWire

MEMBERS = ("a", "b")


@pytest.mark.parametrize(("cut_short", "blamed"), [(None, ()), (0, ("a",)), (1, ("b",))])
async def test_a_part_that_cannot_be_read_is_its_reducers_fault(
    cut_short: int | None, blamed: tuple[str, ...]
) -> None:
    worker = Worker(OuterConfig(codec=E3m0()))
    courier = Courier(MemoryWire(FakeSpawner(config(), 1), "a"), TokenBucket(None))
    reducer = Reducer("c", worker.replica, worker.config, courier)
    payloads = worker.replica.offer(0, 2)
    if cut_short is not None:
        payloads[cut_short] = payloads[cut_short][:-1]
    forwarded = tuple(courier.put(payload) for payload in payloads)
    offers = tuple(Contribution(name, forwarded, 1.0) for name in MEMBERS)
    reduction = Reduction(1, 0, 2, offers, (*MEMBERS, "c"), reducers=MEMBERS)
    outcome = await reducer.update(reduction, forwarded)
    if cut_short is None:
        assert isinstance(outcome, Update)
    else:
        assert isinstance(outcome, Vote)
        assert (outcome.digest, outcome.blamed) == ("", blamed)
