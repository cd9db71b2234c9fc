"""How an endpoint ends: its requests drain, for a time; then they are cut off."""

import pytest

from foundry.errors import Conflict, Unavailable
from foundry.serving.endpoints.domain import EndpointState as S
from foundry.serving.endpoints.domain import RevisionState as R
from foundry.supervisor.ports import EngineObservation
from tests.supervisor.site import Site

pytestmark = pytest.mark.postgres


async def test_a_stop_lets_requests_end_and_says_how_many_and_how_long(site: Site) -> None:
    name = await site.up()
    site.engines.requests[name] = 3
    await site.studio.call(lambda e: e.stop(site.id))
    await site.cluster.reconcile()
    row, revision = await site.row(), await site.revision(1)
    assert (row.state, revision.state) == (S.STOPPING, R.DRAINING)
    assert revision.reason == "draining 3 requests, at most 120 s"
    assert row.progress == {
        "phase": "draining", "allowed_s": 120.0, "requests": 3, "message": revision.reason,
    }  # fmt: skip
    assert 110 < await site.seconds_left(1) <= 120
    site.engines.requests[name] = 1
    await site.cluster.reconcile()
    assert (await site.row()).progress["requests"] == 1
    assert site.engines.killed == []
    del site.engines.applications[name]
    await site.cluster.reconcile()
    row, revision = await site.row(), await site.revision(1)
    assert (row.state, revision.state, revision.reason) == (S.STOPPED, R.REMOVED, None)


async def test_requests_that_outlast_a_stop_are_cut_off(site: Site) -> None:
    name = await site.up()
    site.engines.requests[name] = 1
    await site.studio.call(lambda e: e.stop(site.id))
    await site.cluster.reconcile()
    await site.let_pass(1)
    await site.cluster.reconcile()
    revision = await site.revision(1)
    assert (site.engines.killed, revision.state) == ([name], R.REMOVED)
    assert revision.reason == "its time was over: the requests that still ran were cut off"
    assert (await site.row()).state == S.STOPPED


@pytest.mark.parametrize("end", ["stop", "delete"])
@pytest.mark.parametrize("stops_already", [False, True])
async def test_now_waits_for_no_request(site: Site, end: str, stops_already: bool) -> None:
    name = await site.up()
    site.engines.requests[name] = 1
    if stops_already:
        await site.studio.call(lambda e: getattr(e, end)(site.id))
        await site.cluster.reconcile()
        assert site.engines.killed == []
    await site.studio.call(lambda e: getattr(e, end)(site.id, now=True))
    await site.cluster.reconcile()
    assert site.engines.killed == [name]
    assert (await site.row()).state == (S.STOPPED if end == "stop" else S.DELETED)


async def test_a_stop_gives_its_own_time_to_what_was_replaced_before(site: Site) -> None:
    old = await site.up()
    new = await site.update(max_model_len=64)
    await site.cluster.reconcile()
    site.engines.requests[old] = 1
    await site.cluster.see(new, EngineObservation("running"))
    await site.let_pass(1)
    await site.cluster.reconcile()
    assert (await site.revision(1)).reason == "draining 1 request, at most 900 s"
    await site.studio.call(lambda e: e.stop(site.id))
    await site.cluster.reconcile()
    assert (await site.revision(1)).reason == "draining 1 request, at most 120 s"
    assert 110 < await site.seconds_left(1) <= 120


async def test_requests_of_a_replaced_engine_hold_up_no_further_update(site: Site) -> None:
    old = await site.up()
    second = await site.update(max_model_len=64)
    await site.cluster.reconcile()
    site.engines.requests[old] = 2
    await site.cluster.see(second, EngineObservation("running"))
    await site.let_pass(1)
    await site.cluster.reconcile()
    third = await site.update(max_model_len=32)
    await site.cluster.reconcile()
    await site.cluster.see(third, EngineObservation("running"))
    assert (await site.row()).serving_revision == 3
    assert site.engines.applications[old] == EngineObservation("deleting")


async def test_a_stop_does_not_wait_for_the_backoff_of_a_refused_scale(site: Site) -> None:
    await site.up()
    await site.studio.call(lambda e: e.scale(site.id, 3))
    site.engines.raises = {"deploy": Unavailable("no room")}
    for _ in range(6):
        site.cluster.now += 61.0
        await site.cluster.reconcile()
    tasks = site.cluster.reconciler.tasks
    assert tasks.failures_of(site.id) == 6
    await site.cluster.reconcile()
    assert tasks.failures_of(site.id) == 6
    # Another scale is another wish, too: it is tried at once.
    await site.studio.call(lambda e: e.scale(site.id, 2))
    await site.cluster.reconcile()
    assert tasks.failures_of(site.id) == 1
    await site.studio.call(lambda e: e.stop(site.id))
    await site.cluster.reconcile()
    assert (await site.row()).state == S.STOPPED


async def test_a_deploy_while_it_drains_is_told_how_to_end_that(site: Site) -> None:
    name = await site.up()
    site.engines.requests[name] = 1
    await site.studio.call(lambda e: e.stop(site.id))
    await site.cluster.reconcile()
    with pytest.raises(Conflict, match="`foundry endpoints stop smol --now`"):
        await site.studio.call(lambda e: e.deploy(site.id))
