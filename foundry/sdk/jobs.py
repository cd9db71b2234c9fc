"""Jobs: fine-tuning and importing."""

from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from uuid import UUID

from foundry.execution.fleets.schemas import FleetEventOut, RoundOut
from foundry.execution.jobs.schemas import (
    ENDED,
    SCHEMES,
    DilocoConfig,
    DilocoSubmit,
    ImportSubmit,
    JobLogOut,
    JobMetricOut,
    JobOut,
    SftConfig,
    SftSubmit,
)
from foundry.sdk._lookup import Kind, build_lookup
from foundry.sdk._transport import (
    AsyncSender,
    Call,
    Resource,
    S_co,
    SyncSender,
    operation,
    pages,
    path,
)
from foundry.sdk._waiting import POLL_S, Patience, until, until_async
from foundry.sdk.paging import Listed, Page

_JOB = Kind(
    noun="job",
    route=("jobs",),
    page=Page[JobOut],
    row=JobOut,
    name_of=lambda job: job.name,
    listing="foundry jobs list",
    none_yet="there are no jobs yet: foundry train sft --help",
)


class Jobs(Resource[S_co]):
    @operation("jobs_submit_sft")
    def submit_sft(
        self,
        name: str,
        base: str,
        dataset: str,
        config: SftConfig | None = None,
        *,
        force: bool = False,
        submission_id: str | None = None,
        priority: int = 0,
    ) -> Call[JobOut]:
        """Fine-tune `base` on `dataset` into a new version of the model `name`.

        The same job is not run twice; `force` runs it again. Jobs of a higher `priority` are
        admitted first. A Ray job that means to run the
        fine-tuning itself gives its `submission_id`.
        """
        body = SftSubmit(
            name=name,
            base=base,
            dataset=dataset,
            config=config or SftConfig(),
            force=force,
            submission_id=submission_id,
            priority=priority,
        )
        return Call("POST", path("jobs", "sft"), JobOut, body=body)

    @operation("jobs_submit_diloco")
    def submit_diloco(
        self,
        name: str,
        base: str,
        dataset: str,
        config: DilocoConfig | None = None,
        *,
        force: bool = False,
        submission_id: str | None = None,
        priority: int = 0,
    ) -> Call[JobOut]:
        """Fine-tune with workers that synchronise now and then; see `submit_sft`."""
        body = DilocoSubmit(
            name=name,
            base=base,
            dataset=dataset,
            config=config or DilocoConfig(),
            force=force,
            submission_id=submission_id,
            priority=priority,
        )
        return Call("POST", path("jobs", "diloco"), JobOut, body=body)

    @operation("jobs_submit_import")
    def submit_import(
        self,
        name: str,
        source: str | PathLike[str],
        *,
        base: str | None = None,
        force: bool = False,
        priority: int = 0,
    ) -> Call[JobOut]:
        """Start a job that registers a model which the server can read as `name`.

        Args:
            source: a directory, `hf:ORG/NAME[@REVISION]` or `bundled:smollm2-135m`.
            base: what an adapter was trained from; None: the model that it names itself.
        """
        body = ImportSubmit(
            name=name, source=write_source(source), base=base, force=force, priority=priority
        )
        return Call("POST", path("jobs", "import"), JobOut, body=body)

    @pages("jobs_list")
    def list(
        self,
        *,
        state: str | None = None,
        ref: str | None = None,
        cursor: str | None = None,
        limit: int = 50,
    ) -> Call[Page[JobOut]]:
        """Jobs, newest first, `limit` to a page.

        Args:
            ref: only jobs for the model of this name, or whose id begins so (8 characters).
        """
        query = {"state": state, "ref": ref, "cursor": cursor, "limit": limit}
        return Call("GET", path("jobs"), Page[JobOut], query)

    @operation("jobs_get")
    def get(self, job_id: UUID | str) -> Call[JobOut]:
        """One job.

        Args:
            job_id: its id, a beginning of the id (8 characters), the name of its model (of several
                jobs the newest is meant), or `last`.
        Raises NotFound: nothing is called so. Raises Conflict: several ids begin so.
        """
        return build_lookup(_JOB, job_id)

    @operation("jobs_metrics")
    def metrics(
        self, job_id: UUID | str, *, after: int = -1, limit: int = 2000
    ) -> Call[Listed[JobMetricOut]]:
        """Metrics of the steps above `after`."""
        query = {"after": after, "limit": limit}
        return Call("GET", path("jobs", job_id, "metrics"), Listed[JobMetricOut], query)

    @operation("jobs_logs")
    def logs(
        self, job_id: UUID | str, *, after: int = 0, limit: int = 50
    ) -> Call[Listed[JobLogOut]]:
        """Chunks of output with numbers above `after`."""
        query = {"after": after, "limit": limit}
        return Call("GET", path("jobs", job_id, "logs"), Listed[JobLogOut], query)

    @operation("jobs_rounds")
    def rounds(
        self, job_id: UUID | str, *, after: int = 0, limit: int = 50
    ) -> Call[Listed[RoundOut]]:
        """Committed rounds of a DiLoCo job above `after`, oldest first."""
        query = {"after": after, "limit": limit}
        return Call("GET", path("jobs", job_id, "rounds"), Listed[RoundOut], query)

    @operation("jobs_members")
    def members(
        self, job_id: UUID | str, *, after: int = 0, limit: int = 50
    ) -> Call[Listed[FleetEventOut]]:
        """What happened to the members of a DiLoCo job, numbers above `after`, oldest first."""
        query = {"after": after, "limit": limit}
        return Call("GET", path("jobs", job_id, "members"), Listed[FleetEventOut], query)

    @operation("jobs_cancel")
    def cancel(self, job_id: UUID | str) -> Call[JobOut]:
        return Call("POST", path("jobs", job_id, "cancel"), JobOut)

    @operation("jobs_resume")
    def resume(self, job_id: UUID | str) -> Call[JobOut]:
        """Continue a failed or cancelled job from its newest checkpoint."""
        return Call("POST", path("jobs", job_id, "resume"), JobOut)


def write_source(source: str | PathLike[str]) -> str:
    """A source as the server is told it: a directory without `~`, `..` and the place it is from."""
    text = fspath(source)
    if isinstance(source, str) and text.partition(":")[0] in SCHEMES:
        return text
    return Path(text).expanduser().resolve().as_uri()


def _has_ended(job: JobOut) -> bool:
    return job.state in ENDED


class SyncJobs(Jobs[SyncSender]):
    def wait(
        self,
        job_id: UUID | str,
        on_update: Callable[[JobOut], None] | None = None,
        *,
        poll_s: float = POLL_S,
        timeout_s: float | None = None,
    ) -> JobOut:
        """The job once it has ended, in whatever state. Outlasts a server that restarts.

        Args:
            on_update: called after every look at the job.
        Raises DeadlineExceeded: `timeout_s` have passed; the job goes on.
        """
        patience = Patience(f"job {job_id}", timeout_s)
        return until(self.get, job_id, _has_ended, on_update, patience, poll_s)


class AsyncJobs(Jobs[AsyncSender]):
    async def wait(
        self,
        job_id: UUID | str,
        on_update: Callable[[JobOut], None] | None = None,
        *,
        poll_s: float = POLL_S,
        timeout_s: float | None = None,
    ) -> JobOut:
        """Wait for the end of a job; see `SyncJobs.wait`."""
        patience = Patience(f"job {job_id}", timeout_s)
        return await until_async(self.get, job_id, _has_ended, on_update, patience, poll_s)
