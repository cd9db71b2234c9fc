"""API calls, crashes of the supervisor and faults of engines in any order, on fakes of both sides.

The rows and the cluster are fakes, but every decision and every step is the real one. Time is a
number: a deadline passes when the machine lets it.
"""

import asyncio
import contextlib
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from foundry.errors import Unavailable
from foundry.serving.endpoints.domain import (
    ENDED,
    MAX_CRASHES,
    PENDING_S,
    SERVING,
    STARTING,
    EndpointState,
    RevisionSnapshot,
    RevisionState,
    Strategy,
)
from foundry.supervisor.decisions import Limits
from foundry.supervisor.endpoints import EndpointReconciler
from foundry.supervisor.ports import EngineObservation, EngineStatus, Validation
from tests.supervisor.lifecycle import ID, Engines, Rows

E, R = EndpointState, RevisionState
START_S, STOP_S = 60.0, 120.0
# From any state: room is made, one revision fails, its fallback returns, old ones drain.
PASSES = 40


class Lifecycle(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.rows = Rows()
        self.engines = Engines(comes_up="starting")
        self.engines.rows = self.rows
        self.loop = asyncio.new_event_loop()
        self._restart()

    def teardown(self) -> None:
        """However the sequence ends, a healthy cluster brings it to rest."""
        try:
            self.a_healthy_cluster_settles()
            self.nothing_forbidden_was_done()
        finally:
            self.loop.close()

    def _restart(self) -> None:
        self.reconciler = EndpointReconciler(
            self.rows, self.engines, Limits(START_S, STOP_S), clock=lambda: self.rows.now
        )

    def _pass(self) -> None:
        async def one() -> None:
            await self.reconciler.reconcile()
            await self.reconciler.tasks.drain()

        with contextlib.suppress(Unavailable):
            self.loop.run_until_complete(one())
        # Longer than any backoff, so that the next pass offers the step again.
        self.rows.now += 61.0 if self._failed() else 1.0

    def _failed(self) -> bool:
        return self.reconciler.tasks.failures_of(ID) > 0

    @rule(strategy=st.sampled_from(["surge", "recreate"]), missing=st.booleans())
    def deploy(self, strategy: Strategy, missing: bool) -> None:
        endpoint = self.rows.endpoint
        if endpoint.state in (E.STOPPING, E.DELETING, E.DELETED):
            return
        lacks = ("a GPU",) if missing else ()
        self.engines.validation = Validation(missing=lacks, strategy=strategy)
        number = len(endpoint.revisions) + 1
        new = RevisionSnapshot(number, f"engine-x-r{number}", {}, "d")
        self.rows.deadlines[number] = self.rows.now + PENDING_S
        self.rows.write(
            desired="running",
            state=E.PENDING if endpoint.serving is None else E.UPDATING,
            target=number,
            last_error=None,
            revisions=(*self.rows.retire({endpoint.serving}), new),
        )

    @rule()
    def roll_back(self) -> None:
        """To the revision that serves: an update ends."""
        endpoint = self.rows.endpoint
        if endpoint.serving is None or endpoint.desired != "running":
            return
        serving = endpoint.find_revision(endpoint.serving)
        assert serving is not None
        self.rows.write(
            target=endpoint.serving,
            state=E.RUNNING if serving.state is R.READY else E.DEGRADED,
            revisions=self.rows.retire({endpoint.serving}),
        )

    @rule(replicas=st.integers(1, 3))
    def scale(self, replicas: int) -> None:
        wanted = {self.rows.endpoint.serving, self.rows.endpoint.target}
        self.rows.write(
            revisions=tuple(
                replace(each, replicas=replicas) if each.number in wanted else each
                for each in self.rows.endpoint.revisions
            )
        )

    @rule(delete=st.booleans(), now=st.booleans())
    def stop(self, delete: bool, now: bool) -> None:
        state = self.rows.endpoint.state
        before = STARTING | SERVING | {E.FAILED} | ({E.STOPPING} if now else set())
        if state is E.DELETED or (not delete and state not in before):
            return
        self.rows.release(now=now)
        self.rows.write(
            desired="deleted" if delete else "stopped",
            state=E.DELETING if delete else E.STOPPING,
        )

    @rule(requests=st.integers(0, 3))
    def requests_run(self, requests: int) -> None:
        """They never end by themselves, until a healthy cluster settles."""
        for name in self.engines.applications:
            self.engines.requests[name] = requests

    @rule()
    def reconcile(self) -> None:
        self._pass()

    @rule(at_record=st.booleans())
    def the_supervisor_dies(self, at_record: bool) -> None:
        """At the next record, after its effect; or between two passes."""
        self.rows.dies_at_record = at_record
        if at_record:
            self._pass()
            self.rows.dies_at_record = False
        self._restart()

    @rule(
        strategy=st.sampled_from(["surge", "recreate"]),
        newest=st.sampled_from(["failed", "absent", "running", "starting"]),
        older=st.sampled_from(["failed", "absent", "running", "unhealthy"]),
    )
    def an_update_meets_a_fault(
        self, strategy: Strategy, newest: EngineStatus, older: EngineStatus
    ) -> None:
        """Of the new engine, of the one that serves, or of both, before anything is switched."""
        self.a_healthy_cluster_settles()
        serving = self.rows.endpoint.serving
        self.deploy(strategy, missing=False)
        self._pass()
        for each in self.rows.endpoint.revisions:
            if each.app_name in self.engines.applications:
                self._show(each.app_name, older if each.number == serving else newest)
        self._pass()

    def _show(self, name: str, status: EngineStatus) -> None:
        if status == "absent":
            del self.engines.applications[name]
        else:
            self.engines.applications[name] = EngineObservation(status, status)

    @precondition(lambda self: self.engines.applications)
    @rule(
        data=st.data(),
        status=st.sampled_from(["running", "starting", "unhealthy", "failed", "absent"]),
    )
    def an_engine_changes(self, data: st.DataObject, status: EngineStatus) -> None:
        name = data.draw(st.sampled_from(sorted(self.engines.applications)))
        self._show(name, status)
        self._pass()

    @rule()
    def the_cluster_is_lost(self) -> None:
        self.engines.applications.clear()

    @rule(
        method=st.sampled_from(["observe", "validate", "transfer", "deploy", "verify", "delete"]),
        error=st.sampled_from(
            [TimeoutError(), KeyError("x"), RuntimeError("404"), Unavailable("")]
        ),
    )
    def ray_raises(self, method: str, error: Exception) -> None:
        self.engines.raises[method] = error
        if method == "observe":
            self.engines.raises[method] = Unavailable("no answer")
        self._pass()
        self.engines.raises.clear()

    @rule(mute=st.booleans())
    def engines_answer(self, mute: bool) -> None:
        self.engines.fault = "mute" if mute else None

    @rule(seconds=st.sampled_from([5.0, START_S + 1, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.rows.now += seconds

    @invariant()
    def nothing_forbidden_was_done(self) -> None:
        assert self.rows.violations == []

    @invariant()
    def at_most_one_revision_serves(self) -> None:
        states = [each.state for each in self.rows.endpoint.revisions]
        ready = [state for state in states if state in (R.READY, R.DEGRADED)]
        assert len(ready) <= 1 or self.rows.endpoint.desired != "running"

    @invariant()
    def routes_point_at_a_revision_that_was_verified(self) -> None:
        endpoint = self.rows.endpoint
        if endpoint.state in SERVING:
            serving = endpoint.find_revision(endpoint.serving)
            assert serving is not None
            assert serving.state in (R.READY, R.DEGRADED)
            assert serving.desired == "running"

    @invariant()
    def whatever_is_on_its_way_has_a_deadline(self) -> None:
        for each in self.rows.endpoint.revisions:
            if each.desired == "running" and each.state not in ENDED | {R.READY}:
                assert self.rows.deadlines[each.number] is not None

    @rule()
    def a_healthy_cluster_settles(self) -> None:
        """Whatever happened: with engines that come up, every endpoint reaches what is wanted."""
        self.engines.raises.clear()
        self.engines.fault = None
        strategy = self.engines.validation.strategy
        self.engines.validation = Validation(strategy=strategy)
        self._restart()
        for _ in range(PASSES):
            if self.rows.endpoint.desired == "running":
                # Else they run on: a stop has its time and no more.
                self.engines.requests.clear()
            for name, engine in list(self.engines.applications.items()):
                if engine.status == "deleting" and not self.engines.requests.get(name):
                    del self.engines.applications[name]
                elif engine.status not in ("running", "deleting"):
                    self.engines.applications[name] = EngineObservation("running", "", 1)
            self._pass()
            self.rows.now += 5.0
        # Applications that no row accounts for are unknown in passes a minute apart.
        self.rows.now += 61.0
        self._pass()
        self._pass()
        self._assert_settled()

    def _assert_settled(self) -> None:
        endpoint = self.rows.endpoint
        resting = {E.CREATED, E.RUNNING, E.FAILED, E.STOPPED, E.DELETED}
        assert endpoint.state in resting, endpoint
        expected = set()
        if endpoint.state is E.RUNNING:
            serving = endpoint.find_revision(endpoint.serving)
            assert serving is not None
            assert endpoint.serving == endpoint.target
            assert serving.applied_replicas == serving.replicas
            expected = {serving.app_name}
        if endpoint.state is E.FAILED:
            failed = endpoint.find_revision(endpoint.target)
            assert failed is not None
            assert failed.state is R.FAILED
            assert failed.crashes <= MAX_CRASHES
            assert endpoint.last_error
        assert set(self.engines.applications) == expected


Lifecycle.TestCase.settings = settings(
    max_examples=100, stateful_step_count=20, deadline=None, derandomize=True
)
TestLifecycle = Lifecycle.TestCase
