"""The coordinator with real members on threads: bits, faults, resumption."""

from math import isfinite

import pytest

from foundry.execution.workers.diloco.coordinator import Coordinator
from tests.execution.workers.diloco.fleets import config, local
from tests.fakes.fleet import FakeSpawner, MemoryLog, TinyWorkload


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(
    "outer",
    [
        {},
        {"codec": {"kind": "fp32"}},
        {"codec": {"kind": "topk", "density": 0.1}, "exchange": "gather"},
        {"fragments": 2, "inner_steps": 8, "overlap": 2, "mixing": 0.5, "lr": 0.4},
    ],
)
async def test_a_calm_fleet_equals_the_one_in_one_process(
    workers: int, outer: dict[str, object]
) -> None:
    settings = config(workers, 14, outer)
    spawner, log = FakeSpawner(settings, 14), MemoryLog()
    result = await Coordinator(settings, spawner, log).run()
    assert result.batches == result.total_batches == 14 * workers
    reference = local(settings, 14)
    assert result.digest == reference.replicas[0].state.digest()
    assert [set(digests.values()) for digests in result.digests] == [
        {record.digest} for record in log.records
    ]


async def test_without_held_out_rows_there_is_no_eval_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TinyWorkload, "evaluation", lambda workload: [])
    settings, log = config(2, 8), MemoryLog()
    result = await Coordinator(settings, FakeSpawner(settings, 8), log).run()
    assert result.eval_loss is None
    assert [record.eval_loss for record in log.records] == [None, None]
    assert result.loss is not None and isfinite(result.loss)


async def test_whoever_gets_none_of_the_last_batches_still_sends_what_it_has() -> None:
    base = config(2, 9, {"fragments": 2, "inner_steps": 8, "codec": {"kind": "fp32"}})
    inner = base.inner.model_copy(update={"max_steps": None, "epochs": 1})
    settings = base.model_copy(update={"inner": inner})
    log = MemoryLog()
    result = await Coordinator(settings, FakeSpawner(settings, 9), log).run()
    assert result.batches == result.total_batches == 9
    assert [record.fragment for record in log.records] == [0, None]
    first, last = log.records
    assert [share.batches for share in first.members] == [4, 4]
    assert [(share.batches, share.merged) for share in last.members] == [(1, True), (0, True)]
