"""From rows to engines and back, on a real PostgreSQL and a scripted cluster."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from foundry.errors import FoundryError, InvalidConfiguration, NotFound, Unavailable
from foundry.serving.endpoints.domain import EndpointChange, EndpointSnapshot
from foundry.serving.endpoints.domain import EndpointState as S
from foundry.serving.endpoints.domain import RevisionState as R
from foundry.serving.endpoints.supervision import (
    list_unsettled_endpoints,
    read_endpoint,
    record_change,
)
from foundry.supervisor import endpoints
from foundry.supervisor.decisions import Limits, Step, choose_next_step
from foundry.supervisor.endpoints import EndpointReconciler, LeasedRows
from foundry.supervisor.lease import Lease
from foundry.supervisor.ports import EngineObservation, Validation
from tests.serving.endpoints.cluster import Cluster
from tests.supervisor.site import Site

pytestmark = pytest.mark.postgres


async def test_an_endpoint_from_pending_to_running(site: Site) -> None:
    await site.cluster.reconcile()
    row = await site.row()
    assert (row.state, row.last_error, row.serving_revision) == (S.DEPLOYING, None, None)
    name = row.app_name
    assert site.engines.calls == [("validate", name), ("transfer", name), ("deploy", name)]
    await site.cluster.see(name, EngineObservation("running"))
    row = await site.row()
    assert (row.state, row.serving_revision, row.target_revision) == (S.RUNNING, 1, 1)
    assert site.engines.verified == [name]
    assert (await site.revision(1)).deadline_at is None


async def test_deadlines_are_the_databases(site: Site) -> None:
    await site.cluster.reconcile()
    revision = await site.revision(1)
    async with site.database.begin() as db:
        now = (await db.execute(text("SELECT now()"))).scalar_one()
    assert revision.deadline_at is not None
    assert timedelta(seconds=30) < revision.deadline_at - now <= timedelta(seconds=60)


async def test_a_lost_cluster_is_built_again(site: Site) -> None:
    name = await site.up()
    site.engines.applications.clear()
    await site.cluster.reconcile()
    assert (await site.row()).state == S.DEPLOYING
    assert site.engines.applications[name].status == "starting"
    await site.cluster.see(name, EngineObservation("running"))
    assert (await site.row()).state == S.RUNNING


async def test_an_engine_that_restarts_is_degraded_meanwhile(site: Site) -> None:
    name = await site.up()
    await site.cluster.see(name, EngineObservation("unhealthy", "replica died"))
    row = await site.row()
    assert (row.state, row.last_error, row.serving_revision) == (S.DEGRADED, "replica died", 1)
    await site.cluster.see(name, EngineObservation("running"))
    row = await site.row()
    assert (row.state, row.last_error) == (S.RUNNING, None)


async def test_crashes_count_for_ten_minutes(site: Site) -> None:
    name = await site.up()
    for _ in range(2):
        await site.cluster.see(name, EngineObservation("unhealthy", "died"))
        await site.cluster.see(name, EngineObservation("running"))
    async with site.database.begin() as db:
        await db.execute(
            text("UPDATE endpoint_revisions SET crashing_since = now() - interval '601 seconds'")
        )
    for _ in range(2):
        await site.cluster.see(name, EngineObservation("unhealthy", "died"))
        assert (await site.row()).state == S.DEGRADED
        await site.cluster.see(name, EngineObservation("running"))
    await site.cluster.see(name, EngineObservation("unhealthy", "died"))
    row = await site.row()
    assert row.state == S.FAILED
    assert "crashed 3 times" in str(row.last_error)


@pytest.mark.parametrize("how", ["failed", "late", "mute", "refused", "missing"])
async def test_an_engine_that_does_not_come_up_fails_with_its_reason(site: Site, how: str) -> None:
    if how == "refused":
        site.engines.validation = Validation(reasons=("no sglang here", "no int4"))
    if how == "missing":
        site.engines.validation = Validation(missing=("no GPU yet",))
    await site.cluster.reconcile()
    name = (await site.row()).app_name
    if how == "failed":
        await site.cluster.see(name, EngineObservation("failed", "no memory"))
    elif how == "mute":
        site.engines.fault = "it answers nothing"
        await site.cluster.see(name, EngineObservation("running"))
    elif how in ("late", "missing"):
        await site.let_pass(1)
        await site.cluster.reconcile()
    row = await site.row()
    assert row.state == S.FAILED
    expected = {
        "failed": "no memory",
        "late": "not ready after 60 s",
        "mute": "answers nothing",
        "refused": "no sglang here; no int4",
        "missing": "no place within 15 minutes (no GPU yet)",
    }
    assert expected[how] in str(row.last_error)
    started = [] if how in ("refused", "missing") else [name]
    assert site.engines.deleted == started
    assert site.engines.applications == {}


async def test_a_stopped_endpoint_releases_its_engine(site: Site) -> None:
    name = await site.up()
    await site.studio.call(lambda e: e.stop(site.id))
    await site.cluster.reconcile()
    row = await site.row()
    assert (row.state, row.serving_revision) == (S.STOPPED, None)
    assert site.engines.deleted == [name]
    assert (await site.revision(1)).state == R.REMOVED


async def test_a_new_configuration_serves_before_the_old_engine_goes(site: Site) -> None:
    old = await site.up()
    new = await site.update(max_model_len=64)
    await site.cluster.reconcile()
    assert site.engines.deleted == []
    row = await site.row()
    assert (row.state, row.app_name, row.config) == (S.UPDATING, old, {})
    await site.cluster.see(new, EngineObservation("running"))
    row = await site.row()
    assert (row.state, row.app_name, row.config) == (S.RUNNING, new, {"max_model_len": 64})
    # It drains first.
    assert site.engines.deleted == []
    assert (await site.revision(1)).state == R.DRAINING
    await site.let_pass(1)
    await site.cluster.reconcile()
    assert site.engines.deleted == [old]
    assert (await site.revision(1)).state == R.REMOVED


async def test_a_wrong_option_never_takes_a_running_engine(site: Site) -> None:
    old = await site.up()
    new = await site.update(max_num_seqs=7)
    await site.cluster.reconcile()
    await site.cluster.see(new, EngineObservation("failed", "ValueError: max_num_seqs"))
    row = await site.row()
    assert (row.state, row.app_name, row.serving_revision, row.target_revision) == (
        S.RUNNING, old, 1, 1,
    )  # fmt: skip
    assert row.last_error == (
        "revision 2 failed: the engine did not start: ValueError: max_num_seqs; "
        "revision 1 serves on"
    )
    assert site.engines.deleted == [new]
    assert (await site.revision(2)).state == R.FAILED


async def test_recreate_returns_to_the_old_revision_if_the_new_one_fails(site: Site) -> None:
    old = await site.up()
    site.engines.validation = Validation(strategy="recreate")
    new = await site.update(max_num_seqs=7)
    await site.cluster.reconcile()
    assert (await site.row()).state == S.DEPLOYING
    assert new not in site.engines.applications
    await site.let_pass(1)
    await site.cluster.reconcile()
    assert list(site.engines.applications) == [new]
    await site.cluster.see(new, EngineObservation("failed", "no memory"))
    row = await site.row()
    assert (row.state, row.app_name, row.target_revision) == (S.DEPLOYING, old, 1)
    assert list(site.engines.applications) == [old]
    await site.cluster.see(old, EngineObservation("running"))
    row = await site.row()
    assert (row.state, row.serving_revision) == (S.RUNNING, 1)
    assert "revision 2 failed" in str(row.last_error)


async def test_a_stop_during_an_update_leaves_neither_engine(site: Site) -> None:
    old = await site.up()
    new = await site.update(max_num_seqs=7)
    await site.cluster.reconcile()
    await site.studio.call(lambda e: e.stop(site.id))
    await site.cluster.reconcile()
    assert site.engines.deleted == [old, new]
    assert site.engines.applications == {}
    assert (await site.row()).state == S.STOPPED


async def test_scaling_reaches_the_running_application(site: Site) -> None:
    name = await site.up()
    await site.studio.call(lambda e: e.scale(site.id, 3))
    await site.cluster.reconcile()
    assert site.engines.deployed[-1] == (name, 3)
    row = await site.row()
    assert (row.state, row.config) == (S.RUNNING, {"replicas": 3})
    assert (await site.revision(1)).applied_replicas == 3


@pytest.mark.parametrize(
    "error", [InvalidConfiguration("3 replicas need 6 CPUs"), NotFound("3 replicas need 6 CPUs")]
)
async def test_a_scale_that_is_refused_leaves_the_engine_and_is_tried_again(
    site: Site, error: FoundryError
) -> None:
    name = await site.up()
    await site.studio.call(lambda e: e.scale(site.id, 3))
    site.engines.raises = {"deploy": error}
    await site.cluster.reconcile()
    row = await site.row()
    assert (row.state, row.serving_revision, row.last_error) == (
        S.RUNNING, 1, "it was not scaled: 3 replicas need 6 CPUs",
    )  # fmt: skip
    assert (await site.revision(1)).applied_replicas == 1
    assert site.engines.applications == {name: EngineObservation("running")}
    assert site.cluster.reconciler.tasks.failures_of(site.id) == 1
    site.engines.raises = {}
    await Cluster(site.database, site.engines).reconcile()
    row = await site.row()
    assert (row.state, row.last_error) == (S.RUNNING, None)
    assert (site.engines.deployed[-1], site.engines.deleted) == ((name, 3), [])
    assert (await site.revision(1)).applied_replicas == 3


@pytest.mark.parametrize(
    "error", [TimeoutError(), KeyError("x"), RuntimeError("404"), Unavailable("no answer")]
)
@pytest.mark.parametrize("method", ["validate", "deploy", "verify", "delete"])
async def test_what_ray_raises_delays_and_changes_nothing(
    site: Site, method: str, error: Exception
) -> None:
    site.engines.comes_up = "running"
    if method == "delete":
        await site.cluster.reconcile()
        await site.studio.call(lambda e: e.stop(site.id))
    site.engines.raises = {method: error}
    await site.cluster.reconcile()
    row = await site.row()
    waits = {"validate": S.VALIDATING, "deploy": S.DEPLOYING, "verify": S.VERIFYING}
    assert (row.state, row.last_error) == (waits.get(method, S.STOPPING), None)
    site.engines.raises = {}
    later = Cluster(site.database, site.engines)
    await later.settle()
    assert (await site.row()).state == (S.STOPPED if method == "delete" else S.RUNNING)


async def test_an_engine_that_dies_while_it_is_verified_is_asked_until_the_deadline(
    site: Site,
) -> None:
    site.engines.raises = {"verify": Unavailable("the engine's replica died")}
    await site.cluster.reconcile()
    name = (await site.row()).app_name
    await site.cluster.see(name, EngineObservation("running"))
    assert ((await site.row()).state, site.engines.deleted) == (S.VERIFYING, [])
    await site.let_pass(1)
    await Cluster(site.database, site.engines).reconcile()
    row = await site.row()
    assert (row.state, site.engines.deleted) == (S.FAILED, [name])
    assert row.last_error == "it did not answer a test request within 5 minutes"


async def test_an_endpoint_that_cannot_be_decided_on_holds_up_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = await site.studio.call(lambda e: e.create("smol", name="other"))
    await site.studio.call(lambda e: e.deploy(other.id))
    assert [each.id for each in await list_unsettled_endpoints(site.database)] == [
        site.id,
        other.id,
    ]

    def stumble(endpoint: EndpointSnapshot, seen: Any, limits: Limits) -> Step | None:
        if endpoint.id == site.id:
            raise KeyError(endpoint.target)
        return choose_next_step(endpoint, seen, limits)

    monkeypatch.setattr(endpoints, "choose_next_step", stumble)
    await site.cluster.reconcile()
    _, second = await list_unsettled_endpoints(site.database)
    assert ((await site.row()).state, second.state) == (S.PENDING, S.DEPLOYING)
    assert site.engines.deployed == [(second.app_name, 1)]
    tasks = site.cluster.reconciler.tasks
    assert (tasks.failures_of(site.id), tasks.failures_of(other.id)) == (1, 0)
    async with site.database.begin() as db:
        await db.execute(
            text("UPDATE endpoints SET desired = 'stopped', state = 'STOPPED' WHERE id = :id"),
            {"id": site.id},
        )
    await site.cluster.reconcile()
    assert tasks.failures_of(site.id) == 0, "an endpoint at rest has none to remember"


async def test_a_decision_on_old_facts_changes_nothing(site: Site) -> None:
    before = await read_endpoint(site.database, site.id, ())
    assert before is not None
    await site.studio.call(lambda e: e.stop(site.id))
    assert await site.cluster.lease.take_or_renew()
    change = EndpointChange(S.VALIDATING, None, 1, None, None)
    fence = site.cluster.lease.fence()
    assert not await record_change(site.database, before, change, fence)
    assert (await site.row()).state == S.STOPPING


async def test_a_supervisor_that_was_replaced_touches_no_engine(site: Site) -> None:
    """By its own clock it still holds the lease; PostgreSQL knows better."""
    await site.cluster.lease.give_up()
    frozen = Lease(site.database, clock=lambda: 0.0)
    assert await frozen.take_or_renew()
    async with site.database.begin() as db:
        await db.execute(text("UPDATE supervisor_leases SET expires_at = now()"))
        # The next step is one that calls the engines.
        await db.execute(text("UPDATE endpoint_revisions SET state = 'TRANSFERRING'"))
    assert await Lease(site.database).take_or_renew()
    rows = LeasedRows(site.database, frozen)
    reconciler = EndpointReconciler(rows, site.engines, Limits(60.0, 120.0))
    await reconciler.reconcile()
    await reconciler.tasks.drain()
    assert site.engines.calls == []
    assert (await site.row()).state == S.PENDING
    assert reconciler.tasks.failures_of(site.id) == 1


async def test_a_pass_looks_for_the_rows_of_unknown_engines_only(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await site.up()
    asked: list[set[str]] = []
    rows = site.cluster.reconciler._store

    async def list_wanted() -> set[str]:
        asked.append(set(site.engines.applications))
        return set()

    monkeypatch.setattr(rows, "list_wanted_applications", list_wanted)
    await site.cluster.reconcile()
    assert asked == []
    site.engines.applications["engine-ffffffffffffffffffffffff-r9"] = EngineObservation("running")
    await site.cluster.reconcile()
    assert len(asked) == 1


async def test_unknown_engines_go_after_a_minute_and_known_ones_stay(site: Site) -> None:
    now = [0.0]
    name = await site.up()
    lease = Lease(site.database)
    assert await lease.take_or_renew()
    rows = LeasedRows(site.database, lease)
    reconciler = EndpointReconciler(rows, site.engines, Limits(60.0, 120.0), clock=lambda: now[0])
    for stray in ("engine-ffffffffffffffffffffffff-r9", "gateway"):
        site.engines.applications[stray] = EngineObservation("running")
    for now[0] in (0.0, 59.9):
        await reconciler.reconcile()
        await reconciler.tasks.drain()
        assert site.engines.deleted == []
    now[0] = 60.0
    await reconciler.reconcile()
    await reconciler.tasks.drain()
    assert site.engines.deleted == ["engine-ffffffffffffffffffffffff-r9"]
    assert set(site.engines.applications) == {name, "gateway"}
