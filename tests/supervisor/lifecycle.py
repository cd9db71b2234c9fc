"""Both sides of the supervisor as fakes that notice what must never be done."""

from dataclasses import replace
from uuid import UUID

from foundry.serving.endpoints.domain import (
    EndpointChange,
    EndpointSnapshot,
    EndpointState,
    RevisionSnapshot,
    RevisionState,
    states_before,
)
from tests.fakes.cluster import FakeEngines

E, R = EndpointState, RevisionState
ID = UUID(int=7)


class SupervisorDied(Exception):
    """Between an effect and its record, or before either."""


class Rows:
    """The rows of one endpoint, with the database's clock and the guards of the real ones."""

    def __init__(self) -> None:
        self.now = 0.0
        self.deadlines: dict[int, float | None] = {}
        self.dies_at_record = False
        # Raised inside a step they would only be logged by it: an invariant looks at them.
        self.violations: list[str] = []
        self.endpoint = EndpointSnapshot(ID, ID, ID, "smol", ID, "stopped", E.CREATED, "", {}, 1)

    async def list_unsettled(self, applications: frozenset[str]) -> list[EndpointSnapshot]:
        settled = {E.CREATED, E.CONFIGURED, E.STOPPED, E.DELETED, E.FAILED}
        return [] if self.endpoint.state in settled else [self._seen(applications)]

    async def read(
        self, endpoint_id: UUID, applications: frozenset[str]
    ) -> EndpointSnapshot | None:
        return self._seen(applications)

    async def list_wanted_applications(self) -> set[str]:
        return {
            each.app_name
            for each in self.endpoint.revisions
            if each.desired == "running" or each.state is R.DRAINING
        }

    async def record(self, before: EndpointSnapshot, change: EndpointChange) -> bool:
        if self.dies_at_record:
            self.dies_at_record = False
            raise SupervisorDied
        if before.version != self.endpoint.version:
            return False
        old = self.endpoint.state
        if change.state != old and old not in states_before(change.state):
            self.violations.append(f"no way leads from {old} to {change.state}")
        if change.serving not in (before.serving, None):
            switched = self.endpoint.find_revision(change.serving)
            if switched is None or switched.state is not R.VERIFYING:
                self.violations.append(f"requests go to {switched}")
        revisions = {each.number: each for each in self.endpoint.revisions}
        for each in change.revisions:
            crashes = revisions[each.number].crashes + (1 if each.crashed else 0)
            revisions[each.number] = replace(
                revisions[each.number],
                state=each.state,
                desired=each.desired,
                reason=each.reason,
                progress=each.progress,
                applied_replicas=each.applied_replicas,
                crashes=crashes,
                strategy=each.strategy or revisions[each.number].strategy,
            )
            if not each.keep_deadline:
                allowed = each.allowed_s
                self.deadlines[each.number] = None if allowed is None else self.now + allowed
        self.write(
            state=change.state,
            serving=change.serving,
            target=change.target,
            fallback=change.fallback,
            last_error=change.last_error,
            revisions=tuple(revisions.values()),
        )
        return True

    def write(self, **values: object) -> None:
        version = self.endpoint.version + 1
        self.endpoint = replace(self.endpoint, version=version, **values)  # type: ignore[arg-type]

    def retire(self, keep: set[int | None]) -> tuple[RevisionSnapshot, ...]:
        return tuple(
            each if each.number in keep else replace(each, desired="removed")
            for each in self.endpoint.revisions
        )

    def release(self, *, now: bool) -> None:
        """As the statement of the real rows."""
        revisions = []
        for each in self.endpoint.revisions:
            if each.state not in (R.REMOVED, R.FAILED):
                self.deadlines[each.number] = self.now if now else None
                each = replace(each, desired="removed", progress={})
            revisions.append(each)
        self.write(revisions=tuple(revisions))

    def _seen(self, applications: frozenset[str]) -> EndpointSnapshot:
        """As the query of the real rows selects them."""
        return replace(
            self.endpoint,
            revisions=tuple(
                replace(each, overdue=self.is_overdue(each.number))
                for each in self.endpoint.revisions
                if each.desired == "running"
                or each.state not in (R.REMOVED, R.FAILED)
                or each.number == self.endpoint.fallback
                or each.app_name in applications
            ),
        )

    def is_overdue(self, number: int) -> bool:
        deadline = self.deadlines.get(number)
        return deadline is not None and deadline <= self.now


class Engines(FakeEngines):
    """Also remembers who was deleted before its successor had answered."""

    rows: Rows

    async def deploy(self, endpoint: EndpointSnapshot, revision: RevisionSnapshot) -> None:
        others = self.applications.keys() - {revision.app_name}
        if revision.strategy == "recreate" and others and revision.state is R.DEPLOYING:
            self.rows.violations.append(f"{revision.app_name} has no room beside {others}")
        await super().deploy(endpoint, revision)

    async def delete(self, app_name: str, *, now: bool = False) -> None:
        endpoint = self.rows.endpoint
        serving = endpoint.find_revision(endpoint.serving)
        serves = serving is not None and serving.app_name == app_name
        if serves and endpoint.desired == "running":
            self.rows.violations.append(f"{app_name} was deleted while it served")
        for each in endpoint.revisions if now else ():
            owed = each.state not in (R.FAILED, R.REMOVED) and not self.rows.is_overdue(each.number)
            if each.app_name == app_name and owed:
                self.rows.violations.append(f"{app_name} was killed before its time")
        await super().delete(app_name, now=now)
